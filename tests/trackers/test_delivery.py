from __future__ import annotations

import json
import logging
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest

from rldk_tracking.health.alert import Alert
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.base import RejectedError, Row, Tracker, UnavailableError
from rldk_tracking.trackers.delivery import _BACKLOG, _FEW, _PACE, Delivery
from rldk_tracking.trackers.journal import decode, read
from rldk_tracking.trackers.spool import Spool


class Recorder(Tracker):
    """Takes calls, after as many faults as it is told to have."""

    name: ClassVar[str] = "recorder"

    def __init__(self, faults: Sequence[Exception] = ()) -> None:
        self.faults = list(faults)
        self.calls: list[tuple[Any, ...]] = []
        self.threads: set[str] = set()
        self.closed = 0

    def _take(self, *call: Any) -> None:
        self.threads.add(threading.current_thread().name)
        if self.faults:
            raise self.faults.pop(0)
        self.calls.append(call)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._take("log", dict(metrics), step)

    def alert(self, alert: Alert) -> None:
        self._take("alert", alert)

    def close(self) -> None:
        self.closed += 1

    @property
    def steps(self) -> list[int]:
        return [call[2] for call in self.calls if call[0] == "log"]


class Direct(Recorder):
    threaded: ClassVar[bool] = False


class Hanging(Recorder):
    """Takes a call and does not come back until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.release = threading.Event()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.entered.set()
        self.release.wait(30)
        super().log(metrics, step)


class Batching(Recorder):
    batch: ClassVar[int] = 10

    def __init__(self, poison: int | None = None) -> None:
        super().__init__()
        self.poison = poison
        self.sizes: list[int] = []

    def log_rows(self, rows: Sequence[Row]) -> None:
        if any(row.step == self.poison for row in rows):
            raise RejectedError("an illegal row")
        self.sizes.append(len(rows))
        for row in rows:
            self.log(row.metrics, row.step)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + 5
    while (left := set(threading.enumerate()) - before) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not left


def wait_until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def left_in(path: Path) -> list[dict[str, Any]]:
    """The calls in a spool that its tracker has not taken."""
    spool = Spool.reopen(path)
    records = [record for record, _ in spool.read(spool.first) if record["type"] != "address"]
    spool.close()
    return records


@pytest.mark.parametrize("kind", [Recorder, Direct, Batching])
def test_hands_on_everything_once_and_in_order(kind: type[Recorder], make_alert: Callable[..., Alert]) -> None:
    tracker = kind()
    delivery = Delivery(tracker)
    for step in range(200):
        delivery.put("log", {"rldk/kl/ref_k1": step / 7}, step)
        if step == 100:
            delivery.put("alert", make_alert())
    delivery.close()
    assert tracker.steps == list(range(200))
    assert tracker.calls[101][0] == "alert"
    assert tracker.calls[7] == ("log", {"rldk/kl/ref_k1": 1.0}, 7)
    assert (delivery.errors, delivery.lost, delivery.delivered, delivery.waiting) == (0, 0, 201, 0)
    assert delivery.healthy
    assert tracker.closed == 1


def test_threaded_tracker_never_sees_the_callers_thread() -> None:
    mine = threading.current_thread().name
    for kind, expected in ((Recorder, {"rldk-recorder"}), (Direct, {mine})):
        tracker = kind()
        delivery = Delivery(tracker)
        delivery.put("log", {"a": 1.0}, 1)
        delivery.close()
        assert tracker.threads == expected


def test_put_is_fast_while_the_tracker_hangs() -> None:
    tracker = Hanging()
    delivery = Delivery(tracker, capacity=5000)
    delivery.put("log", {"a": 1.0}, 0)
    assert tracker.entered.wait(5)
    row = {f"rldk/group/key_{i}": float(i) for i in range(100)}
    seconds = []
    for step in range(2000):
        before = time.perf_counter()
        delivery.put("log", row, step)
        seconds.append(time.perf_counter() - before)
    assert sorted(seconds)[len(seconds) // 2] < 100e-6
    tracker.release.set()
    delivery.close()
    assert len(tracker.steps) == 2001


def test_close_is_bounded_when_the_tracker_hangs_and_the_spool_holds_the_rest(tmp_path: Path) -> None:
    tracker = Hanging()
    spool = tmp_path / "folder" / "spool.jsonl"
    delivery = Delivery(tracker, spool=spool)
    for step in range(5):
        delivery.put("log", {"a": float(step)}, step)
    assert tracker.entered.wait(5)
    before = time.monotonic()
    delivery.close(timeout=0.4)
    assert time.monotonic() - before < 0.8
    file = Spool.reopen(spool)
    assert (file.head.tracker, file.head.step) == ("recorder", 4)
    records = list(file.read(file.first))
    assert [decode(record) for record, _ in records] == [("log", ({"a": float(s)}, s)) for s in range(5)]
    # The call that was under way may have arrived: whoever sends the spool has to look.
    assert [position <= file.head.trying for _, position in records] == [True, False, False, False, False]
    assert file.close()
    assert (delivery.lost, delivery.kept) == (0, 5)
    tracker.release.set()
    time.sleep(0.05)
    assert tracker.steps == [0], "what went to the spool must not be delivered as well"


def test_a_tracker_that_answers_again_while_it_is_closed_gets_the_time_that_it_needs() -> None:
    """Where nothing can wait on disk, what is not delivered at the end is lost."""

    class Recovering(Recorder):
        def log(self, metrics: Mapping[str, float], step: int) -> None:
            time.sleep(0.02)
            super().log(metrics, step)

    tracker = Recovering([UnavailableError("down")] * 2)
    delivery = Delivery(tracker, backoff=0.05)
    delivery.open(RunInfo())
    for step in range(40):
        delivery.put("log", {"a": 1.0}, step)
    wait_until(lambda: delivery.errors >= 1)
    delivery.close(20.0, patience=0.4)
    assert tracker.steps == list(range(40)) and delivery.lost == 0


def test_a_tracker_that_takes_nothing_is_not_waited_for_longer_than_patience() -> None:
    tracker = Hanging()
    delivery = Delivery(tracker)
    delivery.open(RunInfo())
    delivery.put("log", {"a": 1.0}, 1)
    begin = time.monotonic()
    delivery.close(60.0, patience=0.2)
    assert time.monotonic() - begin < 20
    tracker.release.set()


def test_overflow_waits_on_disk_and_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    tracker = Hanging()
    spool = tmp_path / "spool.jsonl"
    delivery = Delivery(tracker, capacity=10, spool=spool)
    for step in range(50):
        delivery.put("log", {"a": float(step)}, step)
    assert delivery.waiting == 50
    assert stat.S_IMODE(os.stat(spool).st_mode) == 0o600
    tracker.release.set()
    assert delivery.flush(5)
    for step in range(50, 60):
        delivery.put("log", {"a": float(step)}, step)
    delivery.close()
    assert tracker.steps == list(range(60))
    assert (delivery.lost, delivery.kept, delivery.delivered) == (0, 0, 60)
    assert not spool.exists()


def test_alerts_keep_their_place_among_rows_that_wait_on_disk(tmp_path: Path, make_alert: Callable[..., Alert]) -> None:
    tracker = Hanging()
    delivery = Delivery(tracker, capacity=3, spool=tmp_path / "spool.jsonl")
    for step in range(5):
        delivery.put("log", {"a": float(step)}, step)
    delivery.put("alert", make_alert())
    delivery.put("log", {"a": 5.0}, 5)
    tracker.release.set()
    delivery.close()
    assert [call[-1] if call[0] == "log" else "alert" for call in tracker.calls] == [0, 1, 2, 3, 4, "alert", 5]
    assert tracker.calls[5] == ("alert", make_alert())


def test_overflow_without_a_spool_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    tracker = Hanging()
    delivery = Delivery(tracker, capacity=10)
    for step in range(50):
        delivery.put("log", {"a": float(step)}, step)
    tracker.release.set()
    delivery.close()
    assert (delivery.lost, delivery.kept, len(tracker.steps)) == (40, 0, 10)
    assert "40 calls did not reach recorder and are lost" in caplog.text


def test_alerts_are_taken_when_rows_are_not(make_alert: Callable[..., Alert]) -> None:
    tracker = Hanging()
    delivery = Delivery(tracker, capacity=2)
    for step in range(5):
        delivery.put("log", {"a": 1.0}, step)
    delivery.put("alert", make_alert("nan.weights"))
    tracker.release.set()
    delivery.close()
    assert [call[1].rule for call in tracker.calls if call[0] == "alert"] == ["nan.weights"]


@pytest.mark.parametrize("kind", [Recorder, Direct])
@pytest.mark.parametrize("fault", [UnavailableError("down"), ConnectionError("refused"), RuntimeError("odd")])
def test_a_fault_is_logged_once_with_its_cause_and_tried_again(
    kind: type[Recorder], fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = kind([fault] * 3)
    delivery = Delivery(tracker, backoff=0.01)
    for step in range(3):
        delivery.put("log", {"a": 1.0}, step)
        time.sleep(0.1)
    delivery.close()
    assert tracker.steps == [0, 1, 2]
    assert (delivery.errors, delivery.lost, delivery.delivered) == (3, 0, 3)
    assert delivery.healthy
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert f"{type(fault).__name__}: {fault}" in warnings[0].getMessage()


def test_pauses_double_up_to_the_limit() -> None:
    tries: list[float] = []

    class Timed(Recorder):
        def log(self, metrics: Mapping[str, float], step: int) -> None:
            tries.append(time.monotonic())
            if len(tries) <= 5:
                raise UnavailableError("down")
            super().log(metrics, step)

    delivery = Delivery(Timed(), backoff=0.05, backoff_limit=0.2)
    delivery.put("log", {"a": 1.0}, 1)
    assert delivery.flush(10)
    pauses = [later - earlier for earlier, later in pairwise(tries)]
    for pause, expected in zip(pauses, (0.05, 0.1, 0.2, 0.2, 0.2), strict=True):
        assert expected <= pause < expected + 0.15
    delivery.close()


def test_unhealthy_while_it_fails_and_while_it_hangs() -> None:
    tracker = Recorder([UnavailableError("down")])
    delivery = Delivery(tracker, backoff=0.3)
    delivery.put("log", {"a": 1.0}, 1)
    wait_until(lambda: not delivery.healthy)
    assert delivery.flush(5)
    assert delivery.healthy
    delivery.close()

    hanging = Hanging()
    delivery = Delivery(hanging, stall=0.1)
    delivery.put("log", {"a": 1.0}, 1)
    assert hanging.entered.wait(5)
    assert delivery.healthy
    wait_until(lambda: not delivery.healthy)
    hanging.release.set()
    wait_until(lambda: delivery.healthy)
    delivery.close()


@pytest.mark.parametrize("fault", [RejectedError("forbidden"), TypeError("not a number")])
def test_a_call_that_cannot_pass_does_not_hold_up_the_others(fault: Exception, tmp_path: Path) -> None:
    spool = tmp_path / "spool.jsonl"

    class Picky(Recorder):
        def log(self, metrics: Mapping[str, float], step: int) -> None:
            if step == 2:
                raise fault
            super().log(metrics, step)

    tracker = Picky()
    delivery = Delivery(tracker, spool=spool, backoff=0.001)
    for step in range(5):
        delivery.put("log", {"a": 1.0}, step)
    assert delivery.flush(5)
    delivery.close()
    assert tracker.steps == [0, 1, 3, 4]
    assert [record["step"] for record in read(tmp_path / "rejected-recorder.jsonl")] == [2]
    assert not spool.exists()
    assert delivery.errors == (1 if isinstance(fault, RejectedError) else 5)


def test_one_bad_row_does_not_take_its_batch_with_it(tmp_path: Path) -> None:
    tracker = Batching(poison=7)
    delivery = Delivery(tracker, spool=tmp_path / "spool.jsonl", backoff=0.001)
    for step in range(100):
        delivery.put("log", {"a": 1.0}, step)
    delivery.close()
    assert tracker.steps == [step for step in range(100) if step != 7]
    assert [record["step"] for record in read(tmp_path / "rejected-recorder.jsonl")] == [7]
    assert max(tracker.sizes) > 1


def test_steps_of_some_milliseconds_are_not_written_one_by_one() -> None:
    tracker = Batching()
    delivery = Delivery(tracker)
    delivery.open(RunInfo())
    for step in range(100):
        delivery.put("log", {"a": 1.0}, step)
        time.sleep(0.005)
    delivery.flush(5.0)
    assert [step for _, _, step in tracker.calls] == list(range(100))
    assert len(tracker.sizes) <= 2 + 100 / _FEW
    assert tracker.sizes[0] == 1, "the first row never waits"
    begin = time.monotonic()
    for step in range(100, 104):
        delivery.put("log", {"a": 1.0}, step)
        assert delivery.flush(5.0), "whoever flushes does not wait for the pace"
    assert time.monotonic() - begin < 3 * _PACE
    delivery.close()


@pytest.mark.parametrize("in_process", [False, True])
def test_a_tracker_that_falls_behind_gets_many_rows_at_once_unless_it_computes_here(in_process: bool) -> None:
    class Slow(Batching):
        in_process: ClassVar[bool] = False

        def log_rows(self, rows: Sequence[Row]) -> None:
            time.sleep(0.1)
            super().log_rows(rows)

    Slow.in_process = in_process
    tracker = Slow()
    delivery = Delivery(tracker)
    delivery.open(RunInfo())
    for step in range(60):
        delivery.put("log", {"a": 1.0}, step)
        time.sleep(0.01)
    most = max(tracker.sizes)
    assert most <= _FEW if in_process else _FEW < most <= Batching.batch
    assert delivery.waiting > _BACKLOG
    assert delivery.flush(20.0), "whoever flushes gets them by the batch"
    assert tracker.steps == list(range(60)) and max(tracker.sizes) == Batching.batch
    delivery.close()


def test_rows_wait_for_a_tracker_that_found_no_run_yet() -> None:
    class Late(Recorder):
        found = False

        @property
        def joined(self) -> bool:
            return self.found

        def open(self, run: RunInfo) -> None:
            self.found = run.name == "second"

    tracker = Late()
    delivery = Delivery(tracker)
    delivery.open(RunInfo(name="first"))
    delivery.put("log", {"a": 1.0}, 1)
    delivery.put("log", {"a": 2.0}, 2)
    time.sleep(0.05)
    assert tracker.calls == []
    assert delivery.errors == 0
    delivery.open(RunInfo(name="second"))
    assert delivery.flush(5)
    assert tracker.steps == [1, 2]
    delivery.close()


def test_rows_of_a_run_that_never_came_are_kept(tmp_path: Path) -> None:
    class Never(Recorder):
        @property
        def joined(self) -> bool:
            return False

    delivery = Delivery(Never(), spool=tmp_path / "spool.jsonl")
    delivery.put("log", {"a": 1.0}, 1)
    before = time.monotonic()
    delivery.close()
    assert time.monotonic() - before < 1
    assert [record["step"] for record in left_in(tmp_path / "spool.jsonl")] == [1]


def test_after_close_nothing_reaches_the_tracker(tmp_path: Path) -> None:
    tracker = Recorder()
    delivery = Delivery(tracker, spool=tmp_path / "spool.jsonl")
    delivery.close()
    delivery.close()
    delivery.put("log", {"a": 1.0}, 1)
    assert tracker.calls == []
    assert tracker.closed == 1
    assert delivery.kept == 1


def test_faults_of_open_close_and_arguments_stay_inside(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Recorder):
        def open(self, run: RunInfo) -> None:
            raise ValueError("no run")

        def close(self) -> None:
            raise OSError("no end")

    delivery = Delivery(Broken(), backoff=0.001)
    delivery.open(RunInfo())
    delivery.put("no_such_method", 1)
    delivery.put("log")
    delivery.close()
    assert delivery.errors == 1 + 5 + 5 + 1
    assert delivery.lost == 2


def test_a_spool_that_cannot_be_written_costs_nothing_but_the_rows(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    delivery = Delivery(Recorder([RejectedError("no")]), spool=tmp_path / "file" / "spool.jsonl", backoff=0.001)
    delivery.put("log", {"a": 1.0}, 1)
    delivery.close()
    assert (delivery.lost, delivery.kept) == (1, 0)


def test_credentials_stay_out_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    fault = UnavailableError("https://me:hunter2@host/x https://hooks.slack.com/services/T0/B0/XYZ failed")
    delivery = Delivery(Recorder([fault]), backoff=0.001)
    delivery.put("log", {"a": 1.0}, 1)
    delivery.close()
    assert "failed" in caplog.text
    assert "hunter2" not in caplog.text
    assert "XYZ" not in caplog.text


def test_disk_keeps_the_time_of_the_row_and_the_trackers_address(tmp_path: Path) -> None:
    class Placed(Recorder):
        def address(self) -> Mapping[str, str]:
            return {"run_id": "abc"}

    delivery = Delivery(Placed([RejectedError("no")]), spool=tmp_path / "spool.jsonl", backoff=0.001)
    before = time.time()
    delivery.put("log", {"a": float("nan")}, 1)
    after = time.time()
    delivery.close()
    (line,) = (tmp_path / "rejected-recorder.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert before <= record.pop("time") <= after
    assert record == {
        "tracker": "recorder",
        "to": {"run_id": "abc"},
        "type": "metrics",
        "step": 1,
        "metrics": {"a": "nan"},
    }


SCRIPT = """
import sys, threading, time
from rldk_tracking.trackers.base import Tracker
from rldk_tracking.trackers.delivery import Delivery

class Slow(Tracker):
    def log(self, metrics, step):
        {body}

delivery = Delivery(Slow(), spool=sys.argv[1])
for step in range(3):
    delivery.put("log", {{"a": 1.0}}, step)
{end}
"""


@pytest.mark.parametrize(
    ("body", "end", "delivered", "spooled"),
    [
        # An exception in the training: nobody closes, but the rows still arrive.
        ("time.sleep(0.2); sys.stdout.write(f'{step} ')", "raise RuntimeError('training failed')", "0 1 2 ", []),
        # A tracker that hangs does not keep the process, and its rows are in the spool.
        ("time.sleep(600)", "", "", [0, 1, 2]),
        ("time.sleep(600)", "delivery.close(0.5)", "", [0, 1, 2]),
    ],
)
def test_the_interpreter_ends(tmp_path: Path, body: str, end: str, delivered: str, spooled: list[int]) -> None:
    spool = tmp_path / "spool.jsonl"
    before = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(body=body, end=end), str(spool)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert time.monotonic() - before < 15
    assert done.stdout == delivered, done.stderr
    assert [record["step"] for record in left_in(spool)] == spooled if spooled else not spool.exists()


def test_memory_and_time_stay_flat_over_many_rows() -> None:
    class Sink(Recorder):
        def log(self, metrics: Mapping[str, float], step: int) -> None:
            return None

    delivery = Delivery(Sink())
    for step in range(20_000):
        delivery.put("log", {"a": 1.0}, step)
        if step % 500 == 0:
            delivery.flush(5)
    assert delivery.flush(5)
    assert (delivery.waiting, delivery.delivered, delivery.lost) == (0, 20_000, 0)
    delivery.close()


def test_what_is_stored_is_on_disk_and_handed_on_when_woken(tmp_path: Path) -> None:
    tracker, path = Recorder(), tmp_path / "undelivered-recorder.jsonl"
    delivery = Delivery(tracker, spool=path)
    delivery.open(RunInfo())
    assert delivery.store("log", {"rldk/train/loss": 1.0}, 1)
    assert [record["step"] for record in read(path) if record["type"] == "metrics"] == [1]
    assert tracker.steps == []
    delivery.wake()
    assert delivery.flush(5.0)
    assert tracker.steps == [1]
    delivery.close(5.0)


def test_nobody_is_woken_by_what_is_stored() -> None:
    tracker = Recorder()
    delivery = Delivery(tracker)
    delivery.open(RunInfo())
    delivery.store("log", {"rldk/train/loss": 1.0}, 1)
    time.sleep(0.1)
    assert tracker.steps == [] and delivery.waiting == 1
    delivery.wake()
    assert delivery.flush(5.0)
    assert tracker.steps == [1]
    delivery.close(5.0)
