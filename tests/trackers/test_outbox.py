"""What a tracker has not taken, on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from rldk_tracking.health.alert import Alert
from rldk_tracking.trackers.base import Tracker
from rldk_tracking.trackers.journal import read
from rldk_tracking.trackers.outbox import Outbox
from rldk_tracking.trackers.spool import Spool


class Backend(Tracker):
    name: ClassVar[str] = "backend"

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        raise NotImplementedError

    def alert(self, alert: Alert) -> None:
        raise NotImplementedError

    def address(self) -> Mapping[str, str]:
        return {"run": "a"}


class Late(Backend):
    """Has what it was given only some time later."""

    settles: ClassVar[float] = 60.0


def telling(faults: list[Exception]) -> Any:
    """As the delivery does."""

    def tried(work: Callable[[], Any]) -> Any:
        try:
            return work()
        except Exception as fault:  # noqa: BLE001 - so does the delivery
            faults.append(fault)
            return None

    return tried


def steps(path: Path) -> list[int]:
    spool = Spool.reopen(path)
    try:
        return [record["step"] for record, _ in spool.read(spool.first) if record["type"] == "metrics"]
    finally:
        spool.close()


def test_what_is_taken_is_let_go_of_and_the_rest_stays(tmp_path: Path) -> None:
    path, faults = tmp_path / "undelivered-backend.jsonl", list[Exception]()
    outbox = Outbox(Backend(), path, telling(faults))
    calls = [outbox.store("log", ({"a": 1.0}, step), 1.0) for step in range(5)]
    outbox.trying(calls[:3])
    outbox.taken(calls[:3])
    outbox.close()
    assert steps(path) == [3, 4]
    assert outbox.places == [path] and faults == []


def test_what_is_not_safe_with_the_tracker_yet_stays_until_the_end(tmp_path: Path) -> None:
    path = tmp_path / "undelivered-backend.jsonl"
    outbox = Outbox(Late(), path, telling([]))
    calls = [outbox.store("log", ({"a": 1.0}, step), 1.0) for step in range(3)]
    outbox.taken(calls)
    assert path.read_text().count('"metrics"') >= 3 and outbox.places == [path]
    outbox.close()
    assert outbox.places == []


def test_what_does_not_fit_into_memory_is_read_back_in_order(tmp_path: Path) -> None:
    outbox = Outbox(Backend(), tmp_path / "undelivered-backend.jsonl", telling([]))
    outbox.store("log", ({"a": 1.0}, 0), 1.0)
    for step in range(1, 121):
        start = outbox.end()
        outbox.store("log", ({"a": 1.0}, step), 1.0)
        outbox.spill(start)
    assert outbox.spilled == 120
    found = []
    while calls := outbox.read_back():
        found += [call.args[1] for call in calls]
    assert found == list(range(1, 121))
    assert outbox.spilled == 0 and outbox.give_up() == 0
    outbox.close()


def test_calls_of_another_process_wait_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "undelivered-backend.jsonl"
    first = Outbox(Backend(), path, telling([]))
    for step in range(3):
        first.store("log", ({"a": 1.0}, step), 1.0)
    first.close()
    second = Outbox(Backend(), Spool.reopen(path), telling([]))
    assert second.spilled == 3
    assert [call.args[1] for call in second.read_back()] == [0, 1, 2]
    second.close()


def test_what_the_tracker_will_never_take_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "undelivered-backend.jsonl"
    outbox = Outbox(Backend(), path, telling([]))
    calls = [outbox.store("log", ({"a": 1.0}, step), 1.0) for step in range(2)]
    assert outbox.reject(calls[:1])
    outbox.close()
    assert outbox.rejected is not None and outbox.places == [path, outbox.rejected]
    assert [(record["step"], record["tracker"], record["to"]) for record in read(outbox.rejected)] == [
        (0, "backend", {"run": "a"})
    ]
    assert steps(path) == [1]


def test_a_disk_that_takes_nothing_is_told_and_nothing_else_happens() -> None:
    faults = list[Exception]()
    outbox = Outbox(Backend(), "/proc/nowhere/undelivered-backend.jsonl", telling(faults))
    call = outbox.store("log", ({"a": 1.0}, 0), 1.0)
    assert call.position is None and faults
    outbox.taken([call])
    assert not outbox.reject([call])
    outbox.close()
    assert outbox.places == []


def test_without_a_disk_calls_have_no_position() -> None:
    outbox = Outbox(Backend(), None, telling([]))
    call = outbox.store("log", ({"a": 1.0}, 0), 1.0)
    assert call.position is None
    assert outbox.read_back() == [] and not outbox.reject([call]) and outbox.places == []
    outbox.close()
