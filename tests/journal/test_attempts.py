"""Messages that a channel refused, which are sent once its address is mended, and each once."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

import pytest

from rldk_tracking.journal.attempts import Attempts, Deadline, OutOfTimeError, discreet
from rldk_tracking.journal.offset import Offset
from rldk_tracking.trackers.base import RefusedError, UnavailableError


def attempts(folder: Path, deadline: Deadline, hands_back: bool = False) -> tuple[Attempts, Offset]:
    offset = Offset(folder / "o.json")
    return Attempts(offset, deadline, logging.getLogger("attempts"), hands_back), offset


def test_pauses_double(tmp_path: Path) -> None:
    deadline, pauses = Deadline(), []
    made, offset = attempts(tmp_path, deadline)
    deadline.sleep = pauses.append  # type: ignore[method-assign, assignment]
    left = [UnavailableError("no")] * 10

    def call() -> None:
        if left:
            raise left.pop()

    made.make(call)
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30]
    assert offset.errors == 10


def test_an_end_of_time_interrupts_a_pause(tmp_path: Path) -> None:
    deadline = Deadline()
    made, _ = attempts(tmp_path, deadline)
    deadline.limit(0.7)

    def call() -> None:
        raise UnavailableError("no")

    start = time.monotonic()
    with pytest.raises(OutOfTimeError):
        made.make(call)
    assert time.monotonic() - start < 1.5


def test_credentials_are_handed_back_only_before_anything_was_taken(tmp_path: Path) -> None:
    deadline = Deadline()
    left: list[Exception] = [RefusedError("401")]

    def call() -> None:
        if left:
            raise left.pop()

    made, offset = attempts(tmp_path, deadline, hands_back=True)
    made.was_let_in = True
    made.make(call)
    assert not offset.refused
    left.append(RefusedError("401"))
    made.was_let_in = False
    with pytest.raises(OutOfTimeError):
        made.make(call)
    assert offset.refused
    offset.refused = False
    left.append(RefusedError("401"))
    other, offset = attempts(tmp_path, deadline)
    other.make(call)
    assert not offset.refused, "there is nobody to hand it back to"


def test_an_interrupt_passes(tmp_path: Path) -> None:
    made, _ = attempts(tmp_path, Deadline())

    def call() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made.make(call)


def test_faults_without_credentials() -> None:
    fault = OSError("http://me:hunter2@host/x and https://hooks.slack.com/services/T0/B0/SECRET 'x'")
    assert "hunter2" not in discreet(fault) and "SECRET" not in discreet(fault)
    assert discreet(fault).startswith("OSError: http://***host/x")
    assert len(discreet(OSError("x" * 10_000))) == 500


def test_all_that_sleep_are_woken() -> None:
    deadline, awake = Deadline(), []
    threads = [threading.Thread(target=lambda: (deadline.sleep(30), awake.append(1))) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    deadline.stop()
    for thread in threads:
        thread.join(5)
    assert len(awake) == 3


def test_time_that_is_up() -> None:
    deadline = Deadline()
    assert not deadline.is_out_of_time
    deadline.limit(0.2)
    deadline.limit(100.0)
    start = time.monotonic()
    deadline.sleep(30)
    assert time.monotonic() - start < 5
    assert deadline.is_out_of_time
    other = Deadline()
    other.stop()
    other.sleep(30)
    assert other.is_out_of_time
