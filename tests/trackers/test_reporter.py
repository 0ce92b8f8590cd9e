from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rldk_tracking.health.alert import Alert
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.reporter import ReporterTracker

transformers = pytest.importorskip("transformers", reason="needs transformers")


def events(folder: Path) -> Any:
    """What lies somewhere below; transformers before 5 has no variable for the folder and takes one of its own."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (place,) = {path.parent for path in folder.rglob("events.out.tfevents.*")}
    found = EventAccumulator(str(place), size_guidance={"scalars": 0, "tensors": 0})
    found.Reload()
    return found


def run_info(args: Any, step: int = 0) -> RunInfo:
    state = transformers.TrainerState(global_step=step, is_world_process_zero=True)
    return RunInfo(args=args, state=state, control=transformers.TrainerControl())


@pytest.fixture
def args(tmp_path: Path) -> Any:
    return transformers.TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True)


def test_tensorboard_gets_series_and_alerts(args: Any, tmp_path: Path, make_alert: Callable[..., Alert]) -> None:
    pytest.importorskip("tensorboard", reason="needs tensorboard")
    from transformers.integrations import TensorBoardCallback

    callback = TensorBoardCallback()
    run = run_info(args)
    callback.on_train_begin(run.args, run.state, run.control)
    tracker = ReporterTracker(callback)
    tracker.open(run)
    for step in range(1, 21):
        run.state.global_step = step
        tracker.log({"rldk/kl/ref_k1": step / 4, "rldk/reward/mean": 1.0}, step)
    # A row that is handed over later than its step keeps its step.
    run.state.global_step = 99
    tracker.log({"rldk/late": 1.0}, 21)
    tracker.alert(make_alert())
    threads = threading.active_count()
    callback.on_train_end(run.args, run.state, run.control)
    # The callback has closed its file; a last row opens one of its own, which must not stay open.
    tracker.log({"rldk/last": 7.0}, 22)
    tracker.close()
    assert callback.tb_writer is None
    assert threading.active_count() < threads
    assert run.state.global_step == 99

    found = events(tmp_path)
    assert [(e.step, e.value) for e in found.Scalars("train/rldk/kl/ref_k1")] == [(s, s / 4) for s in range(1, 21)]
    assert [(e.step, e.value) for e in found.Scalars("train/rldk/late")] == [(21, 1.0)]
    assert [(e.step, e.value) for e in found.Scalars("train/rldk/last")] == [(22, 7.0)]
    (alert,) = found.Tensors("rldk/alerts/text_summary")
    assert alert.step == 12
    text = alert.tensor_proto.string_val[0].decode()
    assert "rldk warning: kl.high" in text
    assert "Lower the learning rate" in text


class Backend(transformers.TrainerCallback):  # type: ignore[misc]
    """A backend without texts, that is as strict about its arguments as the integrations are."""

    def __init__(self) -> None:
        self.rows: list[tuple[dict[str, float], int, str]] = []

    def on_log(self, args: Any, state: Any, control: Any, model: Any = None, logs: Any = None, **kwargs: Any) -> None:
        assert not kwargs
        if state.is_world_process_zero:
            self.rows.append((logs, state.global_step, threading.current_thread().name))


def test_other_backends_get_the_series_on_the_callers_thread(args: Any, make_alert: Callable[..., Alert]) -> None:
    callback = Backend()
    tracker = ReporterTracker(callback)
    assert not tracker.joined, "not before the trainer's objects are known"
    tracker.open(run_info(args, 5))
    tracker.log({"rldk/a": 2.0}, 2)
    tracker.alert(make_alert())
    tracker.close()
    mine = threading.current_thread().name
    assert callback.rows == [({"rldk/a": 2.0}, 2, mine)]


def test_what_a_backend_does_to_its_logs_stays_with_it(args: Any) -> None:
    class Greedy(Backend):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            logs.clear()

    row = {"rldk/a": 1.0}
    tracker = ReporterTracker(Greedy())
    tracker.open(run_info(args))
    tracker.log(row, 1)
    assert row == {"rldk/a": 1.0}


def test_unopened(args: Any) -> None:
    with pytest.raises(RuntimeError, match="opened"):
        ReporterTracker(Backend()).log({"a": 1.0}, 1)
