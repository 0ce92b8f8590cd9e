from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest

from rldk_tracking.journal.attempts import Attempts, OutOfTimeError, discreet
from rldk_tracking.journal.offset import Offset
from rldk_tracking.journal.watch import Watch
from rldk_tracking.trackers.base import RefusedError, UnavailableError


def attempts(folder: Path, watch: Watch, hands_back: bool = False) -> tuple[Attempts, Offset]:
    offset = Offset(folder / "o.json")
    return Attempts(offset, watch, logging.getLogger("attempts"), hands_back), offset


def test_pauses_double(tmp_path: Path) -> None:
    watch, pauses = Watch(), []
    made, offset = attempts(tmp_path, watch)
    watch.sleep = pauses.append  # type: ignore[method-assign, assignment]
    left = [UnavailableError("no")] * 10

    def call() -> None:
        if left:
            raise left.pop()

    made.make(call)
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30]
    assert offset.errors == 10


def test_an_end_of_time_interrupts_a_pause(tmp_path: Path) -> None:
    watch = Watch()
    made, _ = attempts(tmp_path, watch)
    watch.limit(0.7)

    def call() -> None:
        raise UnavailableError("no")

    start = time.monotonic()
    with pytest.raises(OutOfTimeError):
        made.make(call)
    assert time.monotonic() - start < 1.5


def test_credentials_are_handed_back_only_before_anything_was_taken(tmp_path: Path) -> None:
    watch = Watch()
    left: list[Exception] = [RefusedError("401")]

    def call() -> None:
        if left:
            raise left.pop()

    made, offset = attempts(tmp_path, watch, hands_back=True)
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
    other, offset = attempts(tmp_path, watch)
    other.make(call)
    assert not offset.refused, "there is nobody to hand it back to"


def test_an_interrupt_passes(tmp_path: Path) -> None:
    made, _ = attempts(tmp_path, Watch())

    def call() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made.make(call)


def test_faults_without_credentials() -> None:
    fault = OSError("http://me:hunter2@host/x and https://hooks.slack.com/services/T0/B0/SECRET 'x'")
    assert "hunter2" not in discreet(fault) and "SECRET" not in discreet(fault)
    assert discreet(fault).startswith("OSError: http://***host/x")
    assert len(discreet(OSError("x" * 10_000))) == 500
