"""Observations, and log entries of trainers, old and new, as keys of the catalogue."""

from __future__ import annotations

import dataclasses
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rldk_tracking import demo
from rldk_tracking.isolation import Shield
from rldk_tracking.metrics.keys import lookup
from rldk_tracking.rollout import Rollout
from rldk_tracking.sources.contract import Contract
from rldk_tracking.sources.detect import LogsSource
from rldk_tracking.sources.logs import Observation, canonical, number


def test_an_empty_observation() -> None:
    seen = Observation()
    assert seen.rollout is None and seen.update is None and dict(seen.scalars) == {}


def test_it_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Observation().scalars = {}  # type: ignore[misc]


def test_the_tensors_are_put_together_when_they_are_asked_for_and_once() -> None:
    calls = []
    rollout = Rollout(mask=torch.ones(2, 3))

    def read_tensors() -> tuple[Rollout, None]:
        calls.append(1)
        return rollout, None

    seen = Observation({"rldk/train/loss": 1.0}, read_tensors)
    assert not calls
    assert seen.rollout is rollout and seen.update is None and seen.rollout is rollout
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, 1.0),
        (0.5, 0.5),
        ("0.69", 0.69),
        (" 1e-3 ", 1e-3),
        ("1,024", 1024.0),
        ("nan", math.nan),
        ("inf", math.inf),
        (torch.tensor(2.5), 2.5),
        (torch.tensor([2.5]), 2.5),
        (np.float32(0.25), 0.25),
        (np.array([0.25]), 0.25),
        ("No Log", None),
        ("", None),
        (None, None),
        (True, None),
        (torch.ones(2), None),
        (np.ones(2), None),
        ({"a": 1}, None),
        ([1.0], None),
    ],
)
def test_numbers_are_found_in_whatever_a_log_holds(value: Any, expected: float | None) -> None:
    found = number(value)
    assert found is None if expected is None else found == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("logs", "expected"),
    [
        ({"loss": 0.1, "learning_rate": 1e-6}, {"rldk/train/loss": 0.1, "rldk/update/learning_rate": 1e-6}),
        ({"train/loss": "0.1", "train/global_step": 3}, {"rldk/train/loss": 0.1}),
        ({"Training Loss": "0.5", "Validation Loss": "0.7"}, {"rldk/train/loss": 0.5, "rldk/eval/loss": 0.7}),
        ({"completion_length": 9.0}, {"rldk/length/mean": 9.0}),
        ({"completions / mean_length": 9.0}, {"rldk/length/mean": 9.0}),
        ({"completions/clipped_ratio": 0.5}, {"rldk/length/truncated_fraction": 0.5}),
        ({"clip_ratio": 0.1}, {"rldk/policy/clip_fraction": 0.1}),
        ({"clip_ratio/region_mean": 0.1}, {"rldk/policy/clip_fraction": 0.1}),
        ({"frac_reward_zero_std": 1.0}, {"rldk/reward/group_tied_fraction": 1.0}),
        ({"rewards/fmt": 0.5}, {"rldk/reward/function/fmt/mean": 0.5}),
        ({"rewards/fmt/std": 0.5}, {"rldk/reward/function/fmt/std": 0.5}),
        (
            {"rewards/margins": 0.2, "rewards/chosen": 0.1},
            {"rldk/preference/margin": 0.2, "rldk/preference/reward_chosen": 0.1},
        ),
        # Nash-MD's are a judge's scores.
        ({"rewards/margins": 0.2, "rewards/chosen": 1, "rewards/probabilities": 1}, {"rldk/preference/margin": 0.2}),
        ({"Rewards/accuracies": 0.2}, {"rldk/preference/accuracy": 0.2}),
        ({"objective/kl": 4.0, "objective/entropy": 30.0}, {"rldk/kl/ref_per_sequence": 4.0}),
        ({"val/ratio": 0.5}, {}),
        ({"actor/entropy_loss": 0.4, "actor/ppo_kl": 0.1}, {"rldk/policy/entropy": 0.4}),
        ({"response_length": 20.0, "policy_loss": 0.1, "kl": 0.2}, {
            "rldk/length/mean": 20.0, "rldk/train/loss": 0.1, "rldk/kl/ref_k1": 0.2,
        }),
        ({"eval_reward": 0.7, "eval_kl": 0.1, "eval_runtime": 3.0}, {"rldk/eval/reward": 0.7}),
        ({"eval_rewards/accuracies": 0.7}, {"rldk/eval/accuracy": 0.7}),
        # One of several evaluation sets: transformers names it, TRL's own numbers stand beside it without the name.
        ({"eval_hard_set_loss": 0.4, "eval_hard_set_runtime": 3.0, "eval_reward": 0.7}, {
            "rldk/eval/hard_set/loss": 0.4, "rldk/eval/hard_set/reward": 0.7,
        }),
        ({"eval_a_loss": 0.4, "eval_a_runtime": 3.0, "eval_b_loss": 0.5, "eval_b_runtime": 3.0, "eval_reward": 0.7}, {
            "rldk/eval/a/loss": 0.4, "rldk/eval/b/loss": 0.5, "rldk/eval/reward": 0.7,
        }),
        # TRL's RewardTrainer; and names that alone may be anything.
        ({"accuracy": 0.6, "margin": 0.2, "mean_reward": 0.1}, {
            "rldk/preference/accuracy": 0.6, "rldk/preference/margin": 0.2,
        }),
        ({"accuracy": 0.6}, {}),
        # A kl of nobody knows what: TRL's AsyncGRPOTrainer, of early versions, has no reference.
        ({"kl": 0.1, "ratio": 1.0, "entropy": 0.5}, {"rldk/policy/entropy": 0.5}),
        # Of later versions: kl and ratio are those of the policy and the one that sampled.
        ({"kl": 0.1, "ratio": 1.2, "perf/rollout_wait_s": 3.0, "perf/step_s": 4.0, "sample/staleness_mean": 2.0}, {
            "rldk/sampler/k3": 0.1, "rldk/policy/ratio_mean": 1.2, "rldk/async/wait_seconds": 3.0,
            "rldk/async/wait_fraction": 0.75, "rldk/throughput/step_seconds": 4.0, "rldk/async/staleness/mean": 2.0,
        }),
        ({"perf/rollout_wait_s": 3.0, "perf/weight_sync_s": 1.5, "sample/dropped_stale_total": 7}, {
            "rldk/async/wait_seconds": 3.0, "rldk/async/sync_seconds": 1.5, "rldk/async/dropped": 7.0,
        }),
        ({"sample/trained_tokens_mean": 80.0, "perf/trained_tok_s_wall_clock": 900.0, "weight_sync_time_s": 2.0}, {
            "rldk/length/mean": 80.0, "rldk/throughput/tokens_per_second": 900.0, "rldk/async/sync_seconds": 2.0,
        }),
        ({"train_runtime": 9.0, "train_loss": 0.3, "loss": 0.1}, {}),
        ({"reward": None, "kl": None, "anything": 1.0}, {}),
        # An entropy that is not of a policy in reinforcement learning.
        ({"loss": 2.0, "entropy": 1.0, "mean_token_accuracy": 0.6}, {
            "rldk/train/loss": 2.0, "rldk/train/entropy": 1.0, "rldk/train/token_accuracy": 0.6,
        }),
        ({"rewards/margins": 0.2, "entropy": 1.0}, {"rldk/preference/margin": 0.2, "rldk/train/entropy": 1.0}),
        # Of no call no share fails, and of no completion that ended there is no mean.
        ({"completions/mean_terminated_length": 0.0, "completions/clipped_ratio": 1.0}, {
            "rldk/length/truncated_fraction": 1.0,
        }),
        ({"tools/call_frequency": 0.0, "tools/failure_frequency": 0.0}, {"rldk/tools/call_frequency": 0.0}),
        ({"tools/call_frequency": 0.5, "tools/failure_frequency": 0.25}, {
            "rldk/tools/call_frequency": 0.5, "rldk/tools/failure_frequency": 0.25,
        }),
        # verl: what of a validation set is logged, also in MLflow's spelling, and how far the sampler is.
        ({"val-core/openai/gsm8k/acc/mean@8": 0.6, "val-aux/gsm8k/reward/mean_at_2": 0.4, "val-aux/a/acc/std@2": 1}, {
            "rldk/eval/openai_gsm8k/accuracy": 0.6, "rldk/eval/gsm8k/reward": 0.4,
        }),
        ({"rollout_corr/k3_kl": 0.01, "rollout_corr/kl": 0.02, "critic/values/mean": 0.3}, {
            "rldk/sampler/k3": 0.01, "rldk/value/mean": 0.3,
        }),
        # OpenRLHF: its kl is of any estimator, the log-ratio beside it is known; 0 without a reference.
        ({"policy_loss": 0.1, "kl": 0.2, "logprobs_diff": 0.3, "group_reward_std": 0.4}, {
            "rldk/train/loss": 0.1, "rldk/kl/ref_k1": 0.3, "rldk/reward/group_std_mean": 0.4,
        }),
        ({"policy_loss": 0.1, "kl": 0.0, "logprobs_diff": 0.0}, {"rldk/train/loss": 0.1}),
        ({"reward": 0.4, "rollout/reward_mean": 0.5, "rollout/truncated_rate": 0.1, "rollout/reward_std": 0.2}, {
            "rldk/reward/mean": 0.5, "rldk/length/truncated_fraction": 0.1, "rldk/reward/std": 0.2,
        }),
        ({"eval/eval_math_pass1": 0.3, "eval/eval_math_pass4": 0.6}, {"rldk/eval/math/reward": 0.3}),
        ({"acc": 0.5, "acc_mean": 0.6, "chosen_reward": 0.2, "reject_reward": 0.1}, {
            "rldk/preference/accuracy": 0.6, "rldk/preference/reward_chosen": 0.2,
            "rldk/preference/reward_rejected": 0.1,
        }),
        ({"acc_mean": 0.6}, {}),
        # LLaMA-Factory's KTO, whose evaluation logs its kl without `eval_`.
        ({"eval_loss": 0.5, "eval_runtime": 1.0, "eval_rewards/chosen": 0.1, "kl": 0.1}, {"rldk/eval/loss": 0.5}),
    ],
)  # fmt: skip
def test_names_old_and_new(logs: dict[str, Any], expected: dict[str, float]) -> None:
    assert canonical(logs) == expected


def test_kl_means_what_the_trainer_computes() -> None:
    assert canonical({"kl": 0.2}, "grpo") == {"rldk/kl/ref_k3": 0.2}
    assert canonical({"kl": 0.2}, "rloo") == {"rldk/kl/ref_k1": 0.2}


@pytest.mark.parametrize("beside", ["distillation_loss", "teacher_kl", "on_policy_loss", "sdft/distillation_loss"])
def test_the_kl_of_a_distillation_is_to_the_teacher(beside: str) -> None:
    assert canonical({"loss": 0.5, "kl": 1.5, beside: 0.5}) == {"rldk/train/loss": 0.5}
    assert canonical({"reward": 0.5, "kl": 1.5, beside: 0.5})["rldk/kl/ref_k3"] == 1.5
    assert canonical({"loss": 0.5, "kl": 1.5})["rldk/kl/ref_k3"] == 1.5


def test_reward_std_changed_its_meaning() -> None:
    # From TRL 0.26 there is a step_time; the meaning changed at 0.27.
    assert canonical({"reward_std": 0.3}) == {"rldk/reward/group_std_mean": 0.3}
    assert canonical({"reward_std": 0.3, "step_time": 1.0})["rldk/reward/std"] == 0.3
    assert canonical({"reward_std": 0.3}, reward_std_within_groups=False) == {"rldk/reward/std": 0.3}


def test_ppo_averages_are_multiplied_by_what_they_were_divided_by() -> None:
    logs = {"policy/clipfrac_avg": 0.1, "loss/value_avg": 0.2, "objective/scores": 1.0}
    assert canonical(logs, "ppo", num_mini_batches=4) == {
        "rldk/policy/clip_fraction": pytest.approx(0.4),
        "rldk/value/loss": pytest.approx(0.8),
        "rldk/reward/mean": 1.0,
    }


@pytest.mark.parametrize(
    ("name", "counter"),
    [
        ("loss", "rldk/nan/loss"),
        ("kl", "rldk/nan/loss"),
        ("grad_norm", "rldk/nan/gradients"),
        ("reward", "rldk/nan/reward"),
        ("objective/scores", "rldk/nan/reward"),
    ],
)
@pytest.mark.parametrize("value", [math.nan, math.inf, "nan"])
def test_what_is_not_finite_is_counted_where_it_is_a_fault(name: str, counter: str, value: Any) -> None:
    assert canonical({name: value}) == {counter: 1.0}


@pytest.mark.parametrize("name", ["entropy", "logps/chosen", "rewards/fmt/mean", "eval_loss", "lr"])
def test_what_is_not_finite_elsewhere_is_left_out(name: str) -> None:
    assert canonical({name: math.nan}) == {}


def test_only_a_gradient_norm_proves_that_nothing_is_wrong() -> None:
    """The loss is filtered before it is logged, and TRL leaves NaN out of the mean of rewards."""
    assert canonical({"loss": 0.1, "reward": 0.5, "grad_norm": 1.0}) == {
        "rldk/train/loss": 0.1,
        "rldk/reward/mean": 0.5,
        "rldk/grad/norm": 1.0,
        "rldk/nan/gradients": 0.0,
    }


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
def test_what_a_real_trainer_logs_is_known(kind: str, tmp_path: Path, reader: Any) -> None:
    trainer = getattr(demo, f"{kind}_trainer")(tmp_path, max_steps=1, beta=0.04)
    reader.watch(trainer).train()
    row = canonical(reader.logs[1], kind)  # type: ignore[arg-type]
    assert all(lookup(key) is not None for key in row)
    wanted = {"train/loss", "grad/norm", "update/learning_rate", "reward/mean", "reward/std", "length/mean"}
    wanted |= {"reward/group_tied_fraction", "policy/entropy", "policy/clip_fraction", "length/truncated_fraction"}
    wanted |= {"kl/ref_k1" if kind == "rloo" else "kl/ref_k3", "reward/function/reward/mean"}
    assert {f"rldk/{key}" for key in wanted} <= set(row)


def test_an_unknown_trainer_has_its_logs(caplog: pytest.LogCaptureFixture) -> None:
    source = LogsSource(object(), Contract())
    with caplog.at_level(logging.DEBUG):
        source.attach(object(), None)
        observation = source.read(1, {"loss": 2.0, "grad_norm": 1.0, "step_time": 0.5, "reward_std": 0.1})
        source.detach()
    assert observation.rollout is None and observation.update is None
    # The time of a step is measured, so the trainer's own is not repeated.
    assert observation.scalars == {
        "rldk/train/loss": 2.0,
        "rldk/grad/norm": 1.0,
        "rldk/nan/gradients": 0.0,
        "rldk/reward/std": 0.1,
    }
    assert source.missing == [] and not caplog.records


@pytest.mark.parametrize(("fields", "lacks"), [((), 0), (("mask", "scores"), 1)])
def test_of_a_trainer_that_samples_something_lacks(fields: tuple[str, ...], lacks: int) -> None:
    source = LogsSource(None, Contract(frozenset(fields)))
    source.attach(None, None)
    assert len(source.missing) == lacks


def test_what_the_step_of_an_old_ppo_returns_is_read_beside_its_logs() -> None:
    """TRL's up to 0.11, on which LLaMA-Factory's stands: callbacks get a loss and a reward, `step` returns it all."""

    class Old:
        def step(self, queries: list[int], responses: list[int], scores: list[float]) -> Any:
            statistics = {"ppo/policy/clipfrac": np.array([0.25]), "objective/kl": 2.0, "objective/kl_dist": np.ones(4)}
            return statistics if scores else None

        def log_stats(self, statistics: Any) -> None: ...

    trainer = Old()
    source = LogsSource(trainer, Contract())
    source.attach(trainer, Shield())
    assert trainer.step([1], [2], [0.5])["objective/kl"] == 2.0
    first = {"rldk/policy/clip_fraction": 0.25, "rldk/kl/ref_per_sequence": 2.0}
    assert source.read(1, {}).scalars == first
    assert source.read(2, {"loss": 0.5}).scalars == {"rldk/train/loss": 0.5}, "of the step before"
    trainer.step([1], [2], [0.5])
    assert source.read(3, {"loss": 0.5}).scalars == first | {"rldk/train/loss": 0.5}
    assert trainer.step([1], [2], []) is None and source.read(4, {}).scalars == {}
    source.detach()
    assert "step" not in vars(trainer)
