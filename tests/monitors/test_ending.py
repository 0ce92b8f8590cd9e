"""When a run is closed: in its own turn, but before a backend's run is ended by the backend's own callback."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from rldk_tracking.isolation import Shield
from rldk_tracking.monitors.ending import CloseBeforeReporters, close_before_reporters
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.memory import InMemoryTracker

transformers = pytest.importorskip("transformers", reason="needs transformers")
from tests.trackers.training import STEPS, LastRow, train  # noqa: E402

pytestmark = pytest.mark.slow


class Noting(InMemoryTracker):
    """Notes the order of its last calls and of the end of a callback of the trainer's."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def open(self, run: RunInfo) -> None:
        self.calls.clear()

    def log(self, metrics: Any, step: int) -> None:
        super().log(metrics, step)
        if "rldk/last" in metrics:
            self.calls.append("last row")

    def close(self) -> None:
        self.calls.append("close")


class EndsWithTrainer(Noting):
    ends_with_trainer: ClassVar[bool] = True


@pytest.mark.parametrize(
    ("kind", "order"),
    [(EndsWithTrainer, ["last row", "close", "reporter"]), (Noting, ["reporter", "last row", "close"])],
)
def test_the_last_row_comes_in_time(
    kind: type[Noting], order: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.integrations import integration_utils

    tracker = kind()

    class Reporter(transformers.TrainerCallback):  # type: ignore[misc]
        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            tracker.calls.append("reporter")

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "other", Reporter)
    # Twice: a second training has a run, and a tracker's close, of its own.
    callback = train(tmp_path, "other", LastRow(), times=2, trackers=[tracker])
    assert tracker.calls == order
    assert tracker.series["rldk/last"] == [(STEPS, 7.0)] * 2
    assert tracker.statuses[-1] == (STEPS, "finished")
    assert callback.run is not None and callback.run.closed


class Handler:
    def __init__(self, *callbacks: Any) -> None:
        self.callbacks = list(callbacks)


class Trainer:
    def __init__(self, *callbacks: Any) -> None:
        self.callback_handler = Handler(*callbacks)


class Monitor:
    run: Any = None


def test_it_is_the_first_once_and_keeps_no_monitor_alive() -> None:
    monitor, trainer = Monitor(), Trainer("a", "b")
    listed = trainer.callback_handler.callbacks
    for _ in range(2):
        close_before_reporters(trainer, monitor)  # type: ignore[arg-type]
    first, *others = trainer.callback_handler.callbacks
    assert isinstance(first, CloseBeforeReporters) and others == listed == ["a", "b"]
    gone = weakref.ref(monitor)
    del monitor
    gc.collect()
    assert gone() is None
    first.on_train_end(None, None, None)
    close_before_reporters(None, Monitor())  # type: ignore[arg-type]


@pytest.mark.parametrize("has_trackers", [True, False])
def test_every_rank_takes_part_in_the_last_exchange_at_one_place(has_trackers: bool) -> None:
    calls: list[str] = []
    monitor = Monitor()
    monitor.run = SimpleNamespace(
        shield=Shield(),
        complete=lambda: calls.append("complete"),
        publisher=SimpleNamespace(ends_with_trainer=has_trackers),
    )
    monitor.on_train_end = lambda *args: calls.append("close")  # type: ignore[attr-defined]
    CloseBeforeReporters(monitor).on_train_end(None, None, None)  # type: ignore[arg-type]
    assert calls == ["complete", "close"][: 1 + has_trackers]
