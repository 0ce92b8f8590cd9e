from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from rldk_tracking.health.alert import Alert
from rldk_tracking.trackers.base import Tracker, UnavailableError
from rldk_tracking.trackers.delivery import Delivery
from rldk_tracking.trackers.journal import encode
from rldk_tracking.trackers.jsonl import JsonlTracker
from rldk_tracking.trackers.memory import InMemoryTracker
from rldk_tracking.trackers.spool import Spool


class Held(Tracker):
    """A run that holds rows up to a step."""

    name = "held"

    def __init__(self, held: int | None, run: str = "a", faults: int = 0) -> None:
        self.held, self.run, self.faults = held, run, faults
        self.calls: list[tuple[str, int]] = []
        self.rows: dict[int, Mapping[str, float]] = {}

    def last_step(self) -> int | None:
        if self.faults:
            self.faults -= 1
            raise UnavailableError("down")
        return self.held

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.calls.append(("log", step))
        self.rows[step] = metrics

    def alert(self, alert: Alert) -> None:
        self.calls.append(("alert", alert.step))

    def address(self) -> Mapping[str, str]:
        return {"run": self.run}


class Once(Held):
    repeatable = False


def left(folder: Path, calls: list[tuple[str, tuple[Any, ...]]], run: str = "a", trying: int = 0) -> Path:
    spool = Spool(folder / "undelivered-held.jsonl", "held")
    spool.note({"run": run})
    ends = [spool.append([encode(method, args, 1.0)]) for method, args in calls]
    if trying:
        spool.trying(ends[trying - 1])
    spool.close()
    return spool.path


def go_on(tracker: Held, folder: Path, at: int, steps: range) -> None:
    delivery = Delivery(tracker, spool=folder / "undelivered-held.jsonl", resumed_at=at, backoff=0.001)
    for step in steps:
        delivery.put("log", {"a": 1.0}, step)
    delivery.close()
    assert (delivery.lost, delivery.kept) == (0, 0)


@pytest.mark.parametrize(
    ("held", "expected"), [(None, range(6, 11)), (3, range(6, 11)), (5, range(6, 11)), (8, range(9, 11))]
)
def test_steps_that_the_run_holds_are_not_written_again(tmp_path: Path, held: int | None, expected: range) -> None:
    tracker = Held(held, faults=2)
    go_on(tracker, tmp_path, 5, range(6, 11))
    assert [step for _, step in tracker.calls] == list(expected)


def test_what_an_earlier_process_left_is_sent_as_far_as_it_is_not_made_anew(
    tmp_path: Path, make_alert: Callable[..., Alert]
) -> None:
    calls: list[tuple[str, tuple[Any, ...]]] = [("log", ({"a": 1.0}, step)) for step in range(3, 8)]
    calls += [("alert", (make_alert(step=4),)), ("alert", (make_alert(step=7),)), ("status", ("running", {}, 7))]
    path = left(tmp_path, calls)
    tracker = Held(2)
    go_on(tracker, tmp_path, 5, range(6, 9))
    assert tracker.calls == [("log", 3), ("log", 4), ("log", 5), ("alert", 4), ("log", 6), ("log", 7), ("log", 8)]
    assert not path.exists()


@pytest.mark.parametrize(("at", "draft_is_sent"), [(7, False), (8, True)])
def test_a_step_whose_row_was_never_computed(tmp_path: Path, at: int, draft_is_sent: bool) -> None:
    """Is what was known of it, where training goes on behind it; otherwise the step is made anew."""
    path = left(tmp_path, [("log", ({"a": 1.0}, step)) for step in range(6, 8)])
    drafted = encode("hold", ({"a": 0.5}, 8), 1.0)
    path.with_suffix(".draft").write_text(json.dumps(drafted) + "\n")
    tracker = Held(5)
    go_on(tracker, tmp_path, at, range(at + 1, 11))
    assert tracker.calls == [("log", step) for step in range(6, 11)]
    assert tracker.rows[8] == ({"a": 0.5} if draft_is_sent else {"a": 1.0})
    assert not list(tmp_path.iterdir())


def test_what_may_have_arrived_is_repeated_only_where_that_does_no_harm(tmp_path: Path) -> None:
    for kind, held, expected in ((Held, 2, [3, 4, 5, 6]), (Once, None, [5, 6]), (Once, 3, [4, 5, 6])):
        # A run that can say how far its rows go is believed: what came later has not arrived.
        left(tmp_path, [("log", ({"a": 1.0}, step)) for step in range(3, 6)], trying=2)
        tracker = kind(held)
        go_on(tracker, tmp_path, 5, range(6, 7))
        assert [step for _, step in tracker.calls] == expected


def test_a_store_that_is_still_busy_with_the_last_rows_gets_them_as_they_were(tmp_path: Path) -> None:
    """It says that it holds steps up to 5, and will hold those of the killed process a moment later."""

    class Busy(Held):
        def __init__(self) -> None:
            super().__init__(5)
            self.values: dict[int, set[float]] = {step: {1.0} for step in range(6, 9)}

        def log(self, metrics: Mapping[str, float], step: int) -> None:
            self.values.setdefault(step, set()).add(metrics["a"])

    left(tmp_path, [("log", ({"a": 1.0}, step)) for step in range(4, 10)], trying=5)
    tracker = Busy()
    delivery = Delivery(tracker, spool=tmp_path / "undelivered-held.jsonl", resumed_at=5)
    for step in range(6, 12):
        delivery.put("log", {"a": 2.0}, step)
    delivery.close()
    assert tracker.values == {step: {1.0} for step in range(4, 9)} | {step: {2.0} for step in range(9, 12)}


def test_what_belongs_to_another_run_stays(tmp_path: Path) -> None:
    path = left(tmp_path, [("log", ({"a": 1.0}, 3))], run="b")
    tracker = Held(None)
    go_on(tracker, tmp_path, 5, range(6, 8))
    assert [step for _, step in tracker.calls] == [6, 7]
    assert path.exists()


def test_last_step_of_the_local_trackers(tmp_path: Path) -> None:
    memory, jsonl = InMemoryTracker(), JsonlTracker(tmp_path)
    assert (memory.last_step(), jsonl.last_step()) == (None, None)
    for tracker in (memory, jsonl):
        for step in range(1, 2001):
            tracker.log({f"rldk/a{i}": 0.5 for i in range(10)}, step)
        tracker.status("finished", {}, 2000)
        assert tracker.last_step() == 2000
        tracker.close()
