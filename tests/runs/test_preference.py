"""Real preference training: chosen and rejected texts from the trainer's logs, and their drift."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rldk_tracking.callback import RLDKCallback
from rldk_tracking.demo.model import tiny_config, tiny_tokenizer
from rldk_tracking.demo.task import demonstrations
from rldk_tracking.trackers.memory import InMemoryTracker
from tests.runs.conftest import PREFERENCE_STEPS, Logs, Ran

SHOWN = {
    "rldk/preference/margin": "rewards/margins",
    "rldk/preference/accuracy": "rewards/accuracies",
    "rldk/preference/reward_chosen": "rewards/chosen",
    "rldk/preference/reward_rejected": "rewards/rejected",
    "rldk/preference/chosen_logps": "logps/chosen",
    "rldk/preference/rejected_logps": "logps/rejected",
    "rldk/train/loss": "loss",
    "rldk/grad/norm": "grad_norm",
    "rldk/update/learning_rate": "learning_rate",
}


@pytest.mark.parametrize("kind", ["dpo", "kto", "orpo", "cpo"])
def test_every_step_shows_what_the_trainer_logged(kind: str, text_run: Callable[[str], Ran]) -> None:
    run = text_run(kind)
    assert sorted(run.spy.steps) == list(range(1, PREFERENCE_STEPS + 1))
    for step, logs in run.spy.steps.items():
        row = run.at(step)
        for key, name in SHOWN.items():
            assert (key in row) == (name in logs), (key, step)
            if name in logs:
                assert row[key] == pytest.approx(logs[name], rel=1e-5), (key, step)
    assert ("rldk/preference/accuracy" in run.tracker.series) == (kind != "kto")


def test_a_reward_model_has_accuracy_and_margin(tmp_path: Path) -> None:
    from datasets import Dataset
    from transformers import Qwen2ForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    config = tiny_config(len(tiny_tokenizer()))
    config.num_labels, config.pad_token_id = 1, tiny_tokenizer().pad_token_id
    tracker, logs = InMemoryTracker(), Logs()
    good, bad = demonstrations(32, hit_rate=0.9, seed=1), demonstrations(32, hit_rate=0.1, seed=1)
    rows = [{"prompt": p, "chosen": c, "rejected": r} for (p, c), (_, r) in zip(good, bad, strict=True)]
    settings = {"report_to": "none", "logging_steps": 1, "save_strategy": "no", "max_steps": 3, "learning_rate": 5e-3}
    settings |= {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "disable_tqdm": True}
    RewardTrainer(
        model=Qwen2ForSequenceClassification(config),
        args=RewardConfig(output_dir=str(tmp_path), per_device_train_batch_size=8, **settings),
        train_dataset=Dataset.from_list(rows),
        processing_class=tiny_tokenizer(),
        callbacks=[RLDKCallback(trackers=[tracker], strict=True), logs],
    ).train()
    for key, name in (("rldk/preference/accuracy", "accuracy"), ("rldk/preference/margin", "margin")):
        logged = {step: entry[name] for step, entry in logs.steps.items()}
        assert dict(tracker.series[key]) == pytest.approx(logged) and set(logged) == {1, 2, 3}


@pytest.mark.parametrize("kind", ["dpo", "kto"])
def test_drift_is_the_distance_from_the_reference_on_the_same_texts(kind: str, text_run: Callable[[str], Ran]) -> None:
    run = text_run(kind)
    for side in ("chosen", "rejected"):
        drift = dict(run.tracker.series[f"rldk/preference/{side}_logps_drift"])
        logged = {step: logs[f"rewards/{side}"] for step, logs in run.spy.steps.items() if f"rewards/{side}" in logs}
        assert drift == pytest.approx({step: value / run.trainer.beta for step, value in logged.items()}, rel=1e-5)
    assert drift[min(drift)] == pytest.approx(0.0, abs=1e-3), "known from the first step on"


def test_pairs_that_are_the_same_are_told(text_run: Callable[[str], Ran]) -> None:
    """Loss ln 2, accuracy 0 and margin 0 in every row, while rounding noise in the gradient moves the weights."""
    alerts = text_run("dpo same").tracker.alerts
    (alert,) = [alert for alert in alerts if alert.rule.startswith("preference.")]
    assert (alert.rule, alert.severity, alert.state) == ("preference.no_signal", "warning", "firing")
    assert 20 <= alert.step <= 24 and "score the same" in alert.message


@pytest.mark.parametrize("kind", ["orpo", "cpo"])
def test_without_a_reference_there_is_no_drift(kind: str, text_run: Callable[[str], Ran]) -> None:
    assert not [key for key in text_run(kind).tracker.series if key.endswith("_drift") and "/preference/" in key]


@pytest.mark.parametrize("kind", ["dpo", "kto", "orpo", "cpo"])
def test_a_healthy_training_raises_no_alarm_about_preferences(kind: str, text_run: Callable[[str], Ran]) -> None:
    assert [alert for alert in text_run(kind).tracker.alerts if alert.rule.startswith("preference.")] == []
