"""The small suite of one TRL release: every number against what the trainer computed, a run in MLflow, an alert.

`python -m tests.versions` runs it with each release of `requirements/`. Its name keeps it out of the other tests, which
run more of the same with two releases. What it found it writes into the folder that `RLDK_VERSION_RESULTS` names.
"""

from __future__ import annotations

import copy
import datetime
import inspect
import json
import logging
import os
import platform
import re
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from packaging.requirements import Requirement

from rldk_tracking.callback import RLDKCallback
from rldk_tracking.cli.doctor import has_ppo
from rldk_tracking.demo.model import tiny_model, tiny_tokenizer
from rldk_tracking.demo.trainers import DigitReward, grpo_trainer
from rldk_tracking.trackers.memory import InMemoryTracker
from tests.forks.result import stored
from tests.runs import ppo_spy
from tests.runs import test_keys_by_trainer as contract
from tests.runs.conftest import PREFERENCE_STEPS, STEPS, Ran, train_group, train_on_texts, train_ppo
from tests.runs.group_spy import GroupSpy, Reader
from tests.runs.slow import Completion, Trained, overlap, update_keys
from tests.runs.test_configurations import ESTIMATED, computed
from tests.runs.test_preference import SHOWN
from tests.versions.result import Training, results

Numbers = dict[str, float]
Series = Mapping[str, Mapping[int, float]]

OF_ITS_TIME = ("trl", "transformers", "accelerate", "datasets", "peft", "tokenizers", "huggingface-hub")

HAS_OLDER_RLOO = "reward_funcs" not in inspect.signature(trl.RLOOTrainer.__init__).parameters
"""TRL up to 0.21: a loop of its own, as PPO's."""


@pytest.fixture(scope="session")
def found() -> Iterator[dict[str, Training]]:
    """Trainer to what was found, written down at the end."""
    trainings: dict[str, Training] = {}
    yield trainings
    if folder := os.environ.get("RLDK_VERSION_RESULTS"):
        versions = {name: metadata.version(name) for name in (*OF_ITS_TIME, "torch")}
        versions["Python"] = platform.python_version()
        rows = {name: vars(training) for name, training in trainings.items()}
        result = {"date": str(datetime.date.today()), "versions": versions, "trainings": rows}
        path = Path(folder) / f"{versions['trl']}.json"
        path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


Check = Callable[[str, Series, Mapping[int, Numbers], set[str]], None]


@pytest.fixture
def check(found: dict[str, Training], caplog: pytest.LogCaptureFixture) -> Check:
    """`check(trainer, series, expected, contract)`: no number differs, and what is missing was said by name.

    Nothing is missing that came when the results were written down last.
    """
    caplog.set_level(logging.WARNING, logger="rldk_tracking")
    known = next((one.trainings for one in results() if one.versions["trl"] == trl.__version__), {})

    def check(name: str, series: Series, expected: Mapping[int, Numbers], promised: set[str]) -> None:
        warnings = [r.getMessage() for r in caplog.records if r.name.startswith("rldk_tracking")]
        said = [text for text in dict.fromkeys(warnings) if not text.startswith("rldk warning: kl.high")]
        missing = sorted(promised - set(series))
        unsaid = [key for key in missing if not key.startswith(named_in(" ".join(said)))]
        numbers, differing = 0, []
        for step, row in expected.items():
            for key, value in row.items():
                if key in missing:
                    continue
                numbers += 1
                shown = series.get(key, {}).get(step)
                margin = {"abs": 0.12} if key == ESTIMATED else {"rel": 1e-5, "abs": 2e-6}
                if shown != pytest.approx(value, **margin):
                    differing.append(f"{key} at step {step} is {shown}, the trainer's {value}")
        own = {key: points for key, points in series.items() if key in computed(dict.fromkeys(series, 0.0))}
        differing += [
            f"{key} at step {step}, which the trainer does not have"
            for key, points in own.items()
            for step in points
            if key not in expected.get(step, {})
        ]
        found[name] = Training(len(series), numbers, differing, missing, said)
        assert differing == [] and unsaid == [] and numbers > 0
        assert name not in known or set(missing) <= set(known[name].missing)

    return check


@pytest.mark.parametrize("package", OF_ITS_TIME)
def test_the_packages_are_what_they_ask_of_each_other(package: str) -> None:
    for asked in map(Requirement, metadata.requires(package) or ()):
        if asked.marker is None or asked.marker.evaluate({"extra": ""}):
            assert asked.specifier.contains(metadata.version(asked.name), prereleases=True), asked


def named_in(text: str) -> tuple[str, ...]:
    """Keys and groups of keys, of `a/b, c/{d, e}` three."""
    found = re.findall(r"(rldk/[\w/]+)(?:\{([^}]*)\})?", text)
    return tuple(before + name for before, names in found for name in names.split(", "))


def of(run: Ran) -> Series:
    return {key: dict(points) for key, points in run.tracker.series.items()}


def expected_of_groups(spy: GroupSpy, trainer: Any) -> dict[int, Numbers]:
    reader, rows = Reader(spy), {}
    for number, step in spy.steps.items():
        row = reader.rollout(step) | reader.update(step) | weights(trainer, step.weights, step.weights_after)
        row |= {"rldk/train/loss": step.logs["loss"], "rldk/grad/norm": step.logs["grad_norm"]}
        if step.sampled and (similar := reader.overlap(step)) is not None:
            row[ESTIMATED] = similar
        rows[number] = row
    return rows


def weights(trainer: Any, before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]) -> Numbers:
    names = [name for name, _ in trainer.model.named_parameters()]
    whole = torch.cat([after[name].double().flatten() for name in names])
    moved = whole - torch.cat([before[name].double().flatten() for name in names])
    return {
        "rldk/update/learning_rate": trainer.args.learning_rate,
        "rldk/update/effective_lr": moved.square().mean().sqrt().item(),
        "rldk/weight/norm": whole.norm().item(),
    }


GRPO = ("plain", "iterations")
LOW_LIMIT = {"kl.high": {"threshold": 0.0, "persistence": (1, 1), "warm_up_steps": 0}}


@pytest.mark.parametrize("name", GRPO)
def test_grpo(name: str, tmp_path: Path, check: Check) -> None:
    run = train_group("grpo", name, tmp_path)
    promised = contract.GROUP_TRAINER | contract.GRPO_KEYS[name]
    check(f"GRPO, {name}", of(run), expected_of_groups(run.spy, run.trainer), promised)


def test_grpo_in_mlflow_with_an_alert(
    tmp_path: Path, check: Check, found: dict[str, Training], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)
    spy, callback = GroupSpy(), RLDKCallback(overrides=LOW_LIMIT)
    trainer = grpo_trainer(tmp_path / "out", report_to=["mlflow"], max_steps=STEPS, callbacks=[callback, spy])
    spy.trainer = trainer
    trainer.train()
    promised = contract.GROUP_TRAINER | contract.GRPO_KEYS["plain"]
    series = stored(tmp_path / "mlflow.db")
    assert set(series.pop("rldk/kl/limit").values()) == {0.0}, "drawn beside the series"
    check("GRPO, in MLflow's store", series, expected_of_groups(spy, trainer), promised)
    from mlflow import MlflowClient

    (run,) = MlflowClient().search_runs([e.experiment_id for e in MlflowClient().search_experiments()])
    assert run.data.tags["rldk.alerts.open"] == "kl.high" == callback.alerts[0].rule
    found["GRPO, in MLflow's store"].alerts = [alert.message for alert in callback.alerts]


@pytest.mark.skipif(HAS_OLDER_RLOO, reason="this TRL has the older RLOO")
@pytest.mark.parametrize("name", GRPO)
def test_rloo(name: str, tmp_path: Path, check: Check) -> None:
    run = train_group("rloo", name, tmp_path)
    promised = contract.GROUP_TRAINER | contract.RLOO_KEYS[name]
    check(f"RLOO, {name}", of(run), expected_of_groups(run.spy, run.trainer), promised)


@pytest.mark.skipif(not HAS_OLDER_RLOO, reason="this TRL has the newer RLOO")
def test_older_rloo(tmp_path: Path, check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    from trl.trainer import rloo_trainer as module

    from rldk_tracking.demo.trainers import _common_settings, _tokenized

    names = "logprobs ref_logprobs padding_mask advantages scores postprocessed_responses contain_eos_token"
    spy = ppo_spy.PPOSpy(module.selective_log_softmax, (*names.split(), "non_score_reward", "pg_loss_stats"))
    monkeypatch.setattr(module, "selective_log_softmax", spy.selective)
    tracker, policy = InMemoryTracker(), tiny_model(0)
    settings = {**_common_settings(tmp_path, "none", 0), "learning_rate": 1e-3, "total_episodes": 32 * STEPS}
    settings |= {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "num_mini_batches": 2}
    settings |= {
        "response_length": 10,
        "stop_token": "eos",
        "num_sample_generations": 0,
        "rloo_k": 4,
        "logging_steps": 10,
    }
    trainer = module.RLOOTrainer(
        config=trl.RLOOConfig(**{**settings, "logging_steps": 10}, cliprange=0.02),
        processing_class=tiny_tokenizer(),
        policy=policy,
        ref_policy=copy.deepcopy(policy),
        reward_model=DigitReward(),
        train_dataset=_tokenized(0),
        callbacks=[RLDKCallback(trackers=[tracker], strict=True), spy],
    )
    trainer.train()
    expected, earlier = {}, list[float]()
    for step, update in spy.steps.items():  # it logs before it counts
        batch = completions_of_older_rloo({name: value.tolist() for name, value in update.frame.items()})
        row = ppo_spy.rollout(batch, earlier) | {"rldk/train/loss": update.frame["pg_loss_stats"].mean().item()}
        row |= update_keys(trained_by_older_rloo(update), 0.02, 0.02, sequence_level=True)
        if (similar := overlap(batch)) is not None:
            row[ESTIMATED] = similar
        expected[step + 1], earlier = row, earlier + update.frame["scores"].tolist()
    promised = (contract.PPO - contract.VALUE - contract.RAW_ADVANTAGE) | contract.GROUPS | contract.ENDING
    series = {key: dict(points) for key, points in tracker.series.items()}
    check("RLOO, of TRL up to 0.21", series, expected, promised | contract.CLIPPING)


def completions_of_older_rloo(seen: Mapping[str, Any]) -> list[Completion]:
    batch = []
    for row, padding in enumerate(seen["padding_mask"]):
        kept = {
            name: [x for x, padded in zip(seen[name][row], padding, strict=True) if not padded]
            for name in ("postprocessed_responses", "logprobs", "ref_logprobs")
        }
        batch.append(
            Completion(
                tokens=kept["postprocessed_responses"],
                score=seen["scores"][row],
                group=row % (len(seen["scores"]) // 4),
                advantages=[seen["advantages"][row]],
                truncated=not seen["contain_eos_token"][row],
                logprobs=kept["logprobs"],
                ref_logprobs=kept["ref_logprobs"],
                penalty=seen["non_score_reward"][row],
            )
        )
    return batch


def trained_by_older_rloo(update: ppo_spy.Update) -> list[Trained]:
    rows = []
    for batch in update.micro:
        for row, index in enumerate(batch["micro_batch_inds"]):
            kept = ~batch["padding_mask"][index]
            new, old = (batch[name][row][kept].double().tolist() for name in ("new", "mb_logprobs"))
            rows.append(Trained(new, old, [batch["mb_advantage"][row].item()], None, 0, batch["first"]))
    return rows


@pytest.mark.skipif(not has_ppo(), reason="PPOTrainer was removed from TRL in 1.13")
@pytest.mark.parametrize("name", ["minibatches"])
def test_ppo(name: str, tmp_path: Path, check: Check) -> None:
    run = train_ppo(name, tmp_path)
    args, expected = run.trainer.args, {}
    for number, update in run.spy.steps.items():
        batch = ppo_spy.completions(update, has_stop_token=True)
        row = ppo_spy.rollout(batch) | ppo_spy.policy(ppo_spy.trained(update), args.cliprange)
        expected[number] = row | ppo_spy.losses(update, args)
    check("PPO", of(run), expected, contract.PPO | contract.PPO_KEYS[name])


OF_GIVEN = {"rldk/train/entropy", "rldk/train/token_accuracy"}
OF_TEXTS = {
    "dpo": contract.PREFERENCE | contract.DRIFT | OF_GIVEN,
    "kto": (contract.PREFERENCE | contract.DRIFT | OF_GIVEN)
    - {"rldk/preference/accuracy", "rldk/train/token_accuracy"},
    "sft": OF_GIVEN,
}


@pytest.mark.parametrize("kind", OF_TEXTS)
def test_texts(kind: str, tmp_path: Path, check: Check) -> None:
    run = train_on_texts(kind, tmp_path)
    assert len(run.spy.steps) == PREFERENCE_STEPS
    expected = {}
    for step, logs in run.spy.steps.items():
        row = {key: logs[name] for key, name in SHOWN.items() if name in logs}
        for side in ("chosen", "rejected"):
            if f"rewards/{side}" in logs:
                row[f"rldk/preference/{side}_logps_drift"] = logs[f"rewards/{side}"] / run.trainer.beta
        expected[step] = row
    promised = OF_TEXTS[kind] | contract.TRAINING | contract.NORM_CLIPPING | {"rldk/throughput/step_seconds"}
    check(kind.upper(), of(run), expected, promised)
