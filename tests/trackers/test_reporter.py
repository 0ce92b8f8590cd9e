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


def run_info(args: Any, step: int = 0) -> RunInfo:
    state = transformers.TrainerState(global_step=step, is_world_process_zero=True)
    return RunInfo(args=args, state=state, control=transformers.TrainerControl())


@pytest.fixture
def args(tmp_path: Path) -> Any:
    return transformers.TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True)


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
