from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from rldk_tracking.fan_out import FanOut
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.base import Tracker
from rldk_tracking.trackers.draft import drafts
from rldk_tracking.trackers.memory import InMemoryTracker


class Here(Tracker):
    """Notes which thread it is called on, as a transformers callback would want to know."""

    name = "here"
    threaded: ClassVar[bool] = False
    on_training_thread: ClassVar[bool] = True

    def __init__(self) -> None:
        self.calls: list[tuple[int, str]] = []

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.calls.append((step, threading.current_thread().name))


class Hanging(Tracker):
    name = "hanging"

    def __init__(self) -> None:
        self.release = threading.Event()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.release.wait(30)


def test_everything_reaches_every_tracker() -> None:
    one, two = InMemoryTracker(), InMemoryTracker()
    fan_out = FanOut([one, two], None)
    fan_out.open(RunInfo())
    fan_out.put("log", {"rldk/reward/mean": 1.0}, 3)
    fan_out.put("log_table", "rldk/samples", ["a"], [[1]], 3)
    fan_out.close(1.0)
    for tracker in (one, two):
        assert tracker.series == {"rldk/reward/mean": [(3, 1.0)]}
        assert tracker.tables == {"rldk/samples": [(3, ["a"], [[1]])]}


def test_a_backend_that_wants_the_training_thread_gets_it() -> None:
    here = Here()
    fan_out = FanOut([here], None)
    thread = threading.Thread(target=lambda: fan_out.put("log", {"rldk/reward/mean": 1.0}, 1))
    thread.start()
    thread.join()
    assert here.calls == []
    fan_out.join(RunInfo())
    assert here.calls == [(1, threading.current_thread().name)]


def test_one_that_hangs_takes_no_time_from_the_others(tmp_path: Path) -> None:
    class Slow(InMemoryTracker):
        name = "slow"
        threaded: ClassVar[bool] = True

        def log(self, metrics: Mapping[str, float], step: int) -> None:
            time.sleep(0.3)
            super().log(metrics, step)

    slow, hanging = Slow(), Hanging()
    fan_out = FanOut([hanging, slow], str(tmp_path))
    for step in (1, 2):
        fan_out.put("log", {"rldk/reward/mean": 1.0}, step)
    begin = time.monotonic()
    fan_out.close(2.0)
    hanging.release.set()
    assert time.monotonic() - begin < 3.0
    assert [step for step, _ in slow.series["rldk/reward/mean"]] == [1, 2]
    assert (tmp_path / "rldk" / "undelivered-hanging.jsonl").exists()


def test_what_is_known_of_a_step_waits_beside_the_calls(tmp_path: Path) -> None:
    """For trackers that take rows and whose calls wait on disk; until the step is put."""

    class Alerted(Hanging):
        name = "alerted"
        takes_rows: ClassVar[bool] = False

    hanging, alerted = Hanging(), Alerted()
    fan_out = FanOut([hanging, alerted, InMemoryTracker()], str(tmp_path))
    fan_out.open(RunInfo())
    fan_out.hold({}, 1)
    assert not list(tmp_path.rglob("*.draft"))
    fan_out.hold({"rldk/train/loss": math.nan, "rldk/grad/norm": 2.0}, 1)
    (path,) = tmp_path.rglob("*.draft")
    assert path.name == "undelivered-hanging.draft"
    (record,) = drafts(path, after=0)
    assert (record["step"], record["metrics"]["rldk/grad/norm"], record["draft"]) == (1, 2.0, True)
    fan_out.put("log", {"rldk/grad/norm": 2.0}, 1)
    fan_out.let_go()
    fan_out.hold({"rldk/grad/norm": 3.0}, 2)
    assert [record["step"] for record in drafts(path, after=0)] == [2]
    hanging.release.set()
    fan_out.close(5.0)
    assert not list(tmp_path.rglob("*.draft"))


def test_no_tracker_is_false() -> None:
    assert not FanOut([], None)
    assert len(FanOut([InMemoryTracker()], None)) == 1


class Far(InMemoryTracker):
    """One whose client computes on a thread of its own."""

    name: ClassVar[str] = "far"
    threaded: ClassVar[bool] = True


def test_what_is_stored_waits_where_a_client_would_compute_and_is_written_where_it_is_the_disk(tmp_path: Path) -> None:
    far, near = Far(), InMemoryTracker()
    fan_out = FanOut([far, near], str(tmp_path))
    fan_out.open(RunInfo())
    fan_out.store("log", {"rldk/reward/mean": 1.0}, 3)
    time.sleep(0.1)
    assert near.series == {"rldk/reward/mean": [(3, 1.0)]} and far.series == {}
    fan_out.wake()
    fan_out.close(5.0)
    assert far.series == near.series
