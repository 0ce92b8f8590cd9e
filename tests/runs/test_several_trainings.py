"""More than one training in a process: of one trainer, and into one tracker's run."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from rldk_tracking.callback import RLDKCallback
from rldk_tracking.demo.trainers import grpo_trainer
from rldk_tracking.trackers.memory import InMemoryTracker

SMALL = {"per_device_train_batch_size": 8, "num_generations": 4, "learning_rate": 3e-2}


def test_a_policy_that_was_trained_here_is_not_held_to_its_reference(tmp_path: Path) -> None:
    tracker = InMemoryTracker()
    callback = RLDKCallback(trackers=[tracker], strict=True)
    trainer: Any = grpo_trainer(tmp_path, max_steps=3, callbacks=[callback], **SMALL)
    trainer.train()
    first = [alert.rule for alert in callback.alerts]
    begun = len(tracker.series["rldk/kl/ref_k1"])
    trainer.train()
    step, drift = tracker.series["rldk/kl/ref_k1"][begun]
    assert step == 1 and abs(drift) > 0.02, "the rule would have fired"
    assert "reference.mismatch" not in [*first, *(alert.rule for alert in callback.alerts)]


def test_a_new_trainer_whose_policy_is_not_its_reference_is_told_so(tmp_path: Path) -> None:
    """Its reference is read from the disk again: the base model, and not what was trained."""
    earlier: Any = grpo_trainer(tmp_path / "a", max_steps=3, **SMALL)
    earlier.add_callback(RLDKCallback(trackers=[InMemoryTracker()], strict=True))
    earlier.train()
    base = earlier.model.config._name_or_path
    later: Any = grpo_trainer(tmp_path / "b", max_steps=1, model=earlier.model, **SMALL)
    later.model.config._name_or_path = base
    later.ref_model.load_state_dict(type(later.model).from_pretrained(base).state_dict())
    callback = RLDKCallback(trackers=[InMemoryTracker()], strict=True)
    later.add_callback(callback)
    later.train()
    assert "reference.mismatch" in [alert.rule for alert in callback.alerts]


def test_two_trainings_into_one_mlflow_run_are_said_and_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    with caplog.at_level(logging.WARNING, logger="rldk_tracking"), mlflow.start_run() as opened:
        for number in (1, 2):
            trainer = grpo_trainer(
                tmp_path / str(number), max_steps=2, report_to=["mlflow"], callbacks=[RLDKCallback()], **SMALL
            )
            trainer.train()
    said = [
        record.getMessage() for record in caplog.records if "earlier training of this process" in record.getMessage()
    ]
    assert len(said) == 1 and "the mlflow run already holds" in said[0]
    client = mlflow.MlflowClient()
    losses = client.get_metric_history(opened.info.run_id, "rldk/train/loss")
    marks = client.get_metric_history(opened.info.run_id, "rldk/system/training")
    assert sorted(point.step for point in losses) == [1, 1, 2, 2]
    assert sorted(point.step for point in marks) == [1, 2] and {point.value for point in marks} == {2.0}
    of_second = {point.timestamp for point in marks}
    assert sorted(point.step for point in losses if point.timestamp in of_second) == [1, 2]
    table = client.download_artifacts(opened.info.run_id, "rldk/trainings/step-00000000.json", str(tmp_path))
    assert [row[:2] for row in json.loads(Path(table).read_text())["data"]] == [[1, "GRPOTrainer"], [2, "GRPOTrainer"]]
