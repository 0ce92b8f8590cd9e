"""Real runs in many configurations: every number of every step against a recomputation by a spy of the test's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.runs import ppo_spy
from tests.runs.conftest import CONFIGURATIONS, PPO_CONFIGURATIONS, STEPS, Ran, train_group
from tests.runs.group_spy import Reader

GROUPS = ("kl", "policy", "value", "advantage", "reward", "length", "sampler", "diversity")
ESTIMATED = "rldk/diversity/within_group_overlap"


def computed(row: dict[str, float]) -> dict[str, float]:
    """Of a row, what a spy recomputes."""
    prefixes = tuple(f"rldk/{group}/" for group in GROUPS)
    return {key: value for key, value in row.items() if key.startswith((*prefixes, "rldk/nan/reward"))}


def compare(found: dict[str, float], expected: dict[str, float], step: int) -> None:
    """The same keys, the same numbers."""
    assert set(found) == set(expected), step
    wrong = {
        key: (found[key], value)
        for key, value in expected.items()
        if found[key] != pytest.approx(value, rel=1e-5, abs=2e-6)
    }
    assert wrong == {}, step


@pytest.mark.parametrize(("kind", "name"), CONFIGURATIONS)
def test_every_number_of_a_group_trainer(kind: str, name: str, group_run: Callable[[str, str], Ran]) -> None:
    run = group_run(kind, name)
    reader = Reader(run.spy)
    seen: set[str] = set()
    for number in range(1, STEPS + 1):
        step, row = run.spy.steps[number], run.at(number)
        expected = reader.rollout(step) | reader.update(step)
        if name == "sequences":
            clipping_is_as_logged(step.logs, expected)
        overlap = row.pop(ESTIMATED, None)
        if overlap is not None:
            assert overlap == pytest.approx(reader.overlap(step), abs=0.12)
        compare(computed(row), expected, number)
        seen |= set(expected)
    assert len(seen) > 25


def clipping_is_as_logged(logs: dict[str, Any], expected: dict[str, float]) -> None:
    """GSPO clips the geometric mean over a completion's tokens; so does the trainer count."""
    for name, log in {"": "region_mean", "_low": "low_mean", "_high": "high_mean"}.items():
        key = f"rldk/policy/clip_fraction{name}"
        assert expected.get(key, 0.0) == pytest.approx(logs[f"clip_ratio/{log}"], abs=1e-6)


@pytest.mark.parametrize("name", PPO_CONFIGURATIONS)
def test_every_number_of_ppo(name: str, ppo_run: Callable[[str], Ran]) -> None:
    run = ppo_run(name)
    args = run.trainer.args
    for number in range(1, STEPS + 1):
        update, row = run.spy.steps[number], run.at(number)
        batch = ppo_spy.completions(update, has_stop_token=run.trainer.stop_token_id is not None)
        expected = ppo_spy.rollout(batch) | ppo_spy.policy(ppo_spy.trained(update), args.cliprange)
        expected |= ppo_spy.losses(update, args)
        found = computed(row) | {"rldk/train/loss": row["rldk/train/loss"]}
        compare(found, expected, number)


def test_the_configurations_bring_about_what_they_are_for(group_run: Callable[[str, str], Ran]) -> None:
    def series(kind: str, name: str, key: str) -> list[float]:
        return [value for _, value in group_run(kind, name).tracker.series[key]]

    for kind in ("grpo", "rloo"):
        assert max(series(kind, "iterations", "rldk/policy/clip_fraction")) > 0.1
        assert max(series(kind, "generates rarely", "rldk/policy/clip_fraction")) > 0.1
        assert max(series(kind, "unscored", "rldk/nan/reward")) == 0
        assert 0 < max(series(kind, "unscored", "rldk/reward/function/sometimes/none_fraction")) < 1
        assert set(series(kind, "unscored", "rldk/reward/function/never/none_fraction")) == {1.0}
        assert max(series(kind, "ties", "rldk/reward/group_tied_fraction_all_max")) > 0
        assert max(series(kind, "ties", "rldk/reward/group_tied_fraction_all_min")) > 0
        assert 0.2 < max(series(kind, "truncated", "rldk/length/truncated_fraction")) < 1
        assert max(series(kind, "plain", "rldk/kl/ref_k3")) > 0.01
    assert min(series("grpo", "sampler", "rldk/sampler/ess")) < 0.95


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
def test_steps_without_a_rollout_have_no_numbers_of_one(kind: str, group_run: Callable[[str, str], Ran]) -> None:
    run = group_run(kind, "generates rarely")
    for step in range(1, STEPS + 1):
        sampled = any(key.startswith(("rldk/reward/", "rldk/length/", "rldk/kl/")) for key in run.at(step))
        assert sampled == (step % 2 == 1)
        assert "rldk/policy/ratio_mean" in run.at(step)


def test_the_loss_is_the_trainers_also_beside_a_policy_loss(group_run: Callable[[str, str], Ran]) -> None:
    run = group_run("grpo", "entropy bonus")
    for number, step in run.spy.steps.items():
        assert run.at(number)["rldk/train/loss"] == pytest.approx(step.logs["loss"])
        assert step.logs["policy_loss"] != pytest.approx(step.logs["loss"])


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
def test_logs_are_taken_at_the_step_that_logs_them(kind: str, group_run: Callable[[str, str], Ran]) -> None:
    run = group_run(kind, "logs rarely")
    logged = {number: step.logs["loss"] for number, step in run.spy.steps.items() if step.logs}
    assert set(logged) == {3}
    assert dict(run.tracker.series["rldk/train/loss"]) == pytest.approx(logged)


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
@pytest.mark.parametrize("name", ["plain", "iterations", "generates often"])
def test_gradients_and_updates(kind: str, name: str, group_run: Callable[[str, str], Ran]) -> None:
    """Against the trainer's own norm, and against copies of the weights before and after each step."""
    run = group_run(kind, name)
    trained = {key for key, _ in run.trainer.model.named_parameters()}
    for number, step in run.spy.steps.items():
        row = run.at(number)
        assert row["rldk/grad/norm"] == pytest.approx(step.logs["grad_norm"], rel=1e-5)
        assert row["rldk/grad/norm_clipped_fraction"] == float(step.logs["grad_norm"] > run.trainer.args.max_grad_norm)
        assert row["rldk/update/learning_rate"] == pytest.approx(run.trainer.args.learning_rate)
        before, after = ({n: w[n].double() for n in trained} for w in (step.weights, step.weights_after))
        size = math.sqrt(sum(float(w.square().sum()) for w in after.values()))
        moved = math.sqrt(sum(float((after[n] - before[n]).square().sum()) for n in trained))
        assert row["rldk/weight/norm"] == pytest.approx(size, rel=1e-6)
        elements = sum(w.numel() for w in after.values())
        assert row["rldk/update/effective_lr"] == pytest.approx(moved / math.sqrt(elements), rel=1e-4)


def test_tokens_and_samples_per_second(group_run: Callable[[str, str], Ran]) -> None:
    run = group_run("grpo", "plain")
    for number in range(2, STEPS + 1):
        row, (sampled,) = run.at(number), run.spy.steps[number].sampled
        tokens = sum(int(batch["completion_mask"].sum()) for batch in sampled.batches)
        seconds = row["rldk/throughput/step_seconds"]
        assert row["rldk/throughput/tokens_per_second"] * seconds == pytest.approx(tokens)
        assert row["rldk/throughput/samples_per_second"] * seconds == pytest.approx(32)
        assert 0 < row["rldk/throughput/rollout_fraction"] < 1


def test_beside_the_training_the_numbers_are_the_same(tmp_path: Path, group_run: Callable[[str, str], Ran]) -> None:
    """`strict` waits for every step's numbers; otherwise they are computed while the training goes on."""
    waited = group_run("grpo", "iterations")
    torch.manual_seed(0)
    beside = train_group("grpo", "iterations", tmp_path, strict=False)
    for step in range(1, STEPS + 1):
        assert computed(beside.at(step)) == computed(waited.at(step))
