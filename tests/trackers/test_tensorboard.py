"""What lies in the event files: every row at its step under its own name, alerts, and nothing after the end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rldk_tracking.health.alert import Alert
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.base import RejectedError
from rldk_tracking.trackers.tensorboard import TensorBoardTracker

transformers = pytest.importorskip("transformers", reason="needs transformers")
pytest.importorskip("tensorboard", reason="needs tensorboard")


def events(folder: Path) -> Any:
    """What lies somewhere below; transformers before 5 has no variable for the folder and takes one of its own."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (file,) = folder.rglob("events.out.tfevents.*")
    found = EventAccumulator(str(file.parent), size_guidance={"scalars": 0, "tensors": 0})
    found.Reload()
    return found


def test_series_and_alerts(tmp_path: Path, make_alert: Callable[..., Alert]) -> None:
    args = transformers.TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True)
    state = transformers.TrainerState(global_step=0, is_world_process_zero=True)
    control = transformers.TrainerControl()
    callback = transformers.integrations.TensorBoardCallback()
    tracker = TensorBoardTracker(callback)
    assert not tracker.joined, "not before transformers has opened its file"
    callback.on_train_begin(args, state, control)
    tracker.open(RunInfo(args=args, state=state, control=control))
    assert tracker.joined
    for step in range(1, 21):
        tracker.log({"rldk/kl/ref_k1": step / 4, "rldk/reward/mean": 1.0}, step)
    tracker.alert(make_alert())
    threads = threading.active_count()
    callback.on_train_end(args, state, control)
    assert not tracker.joined
    with pytest.raises(RejectedError, match="closed"):
        tracker.log({"rldk/last": 7.0}, 22)
    tracker.close()
    assert threading.active_count() < threads

    found = events(tmp_path)
    assert [(e.step, e.value) for e in found.Scalars("rldk/kl/ref_k1")] == [(s, s / 4) for s in range(1, 21)]
    (alert,) = found.Tensors("rldk/alerts/text_summary")
    assert alert.step == 12
    text = alert.tensor_proto.string_val[0].decode()
    assert "rldk warning: kl.high" in text
    assert "Lower the learning rate" in text


def test_the_last_row_of_a_training_is_in_its_one_file(tmp_path: Path) -> None:
    from tests.trackers.training import LastRow, train

    train(tmp_path, "tensorboard", LastRow())
    found = events(tmp_path)
    assert [(e.step, e.value) for e in found.Scalars("rldk/last")] == [(4, 7.0)]
    assert [e.step for e in found.Scalars("rldk/train/loss")] == [1, 2, 3, 4]
    assert "train/loss" in found.Tags()["scalars"], "the trainer's own are in the same file"
