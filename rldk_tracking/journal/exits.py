"""How the end of a training is noticed of which no callback hears: an exception ends `train()`, or the process ends.

Runs that nobody closed have crashed by then, and what is left of all of them is waited for at once.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Protocol

from rldk_tracking.journal.process import courier

EXCEPTION_LINES = 5
"""Last lines of the exception that ended a training, kept in the journal."""
LONGEST_WAIT_S = 15.0
"""For destinations that answer, of all runs together."""
TRAIN = "train"


class Closable(Protocol):
    """A run that is open."""

    def close(self, status: str, step: int | None = None, exception: str | None = None) -> None:
        """Say how it ended."""


_OPEN: dict[int, Closable] = {}


def note_open(run: Closable) -> None:
    """A run has begun."""
    _OPEN[id(run)] = run
    # After the trackers' own exit hooks, so that it is called before them.
    atexit.unregister(close_all)
    atexit.register(close_all)


def note_closed(run: Closable) -> None:
    """Somebody has closed it."""
    _OPEN.pop(id(run), None)


def open_runs() -> list[Closable]:
    """Runs that nobody has closed yet, the oldest first."""
    return list(_OPEN.values())


def close_all() -> None:
    """Say of every open run that it crashed, then wait for the destinations of all of them together."""
    for run in open_runs():
        run.close("crashed", exception=last_exception())
    courier().wait_for_all(LONGEST_WAIT_S)


def last_exception() -> str | None:
    """The last lines of the exception that ends the interpreter, which Python keeps for debuggers."""
    error = getattr(sys, "last_value", None)
    if error is None:
        return None
    lines = "".join(traceback.format_exception(type(error), error, error.__traceback__)).splitlines()
    return "\n".join(lines[-EXCEPTION_LINES:])


if hasattr(os, "register_at_fork"):
    # A child that leaves by sys.exit runs `close_all` too: the runs are its parent's.
    os.register_at_fork(after_in_child=_OPEN.clear)


class TrainCall:
    """The call of a function named `train` that is under way on this thread, if one is.

    It keeps the function's code and no frame: a frame would keep the model.
    """

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        frames = _frames(self._thread)
        self._earlier = id(getattr(sys, "last_value", None))
        self._code: CodeType | None = next((frame.f_code for frame in frames if frame.f_code.co_name == TRAIN), None)

    def is_over(self, later: TrainCall | None = None) -> bool:
        """Whether it has ended, from whatever thread this is asked. One that is not known never is.

        Args:
            later: another call, which is under way now.
        """
        if self._code is None:
            return False
        is_same = later is not None and (later._thread, later._code) == (self._thread, self._code)
        return sum(frame.f_code is self._code for frame in _frames(self._thread)) <= int(is_same)

    def exception(self) -> str | None:
        """The last lines of an exception that Python, or a notebook, has kept since it began."""
        return None if id(getattr(sys, "last_value", None)) == self._earlier else last_exception()


def _frames(thread: int) -> Iterator[FrameType]:
    """Those of a thread, the innermost first; none of one that has ended."""
    frame = sys._current_frames().get(thread)
    while frame is not None:
        yield frame
        frame = frame.f_back
