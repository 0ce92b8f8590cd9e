"""Computing beside the training without holding it up.

Threads of one process take turns with the interpreter. A thread that computes keeps it for five milliseconds after
another has asked (`sys.getswitchinterval`), and every torch operation gives it up and asks for it again: beside a
thread that computes, twenty operations of some microseconds take a quarter of a second. Whatever computes for long beside
the training does it in short turns.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS = 1e-3
"""A turn. Some small torch operations that take 0.4 ms alone took at most 58 ms beside a thread that only computes, with
Python's own five milliseconds 281. Shorter turns are better there (0.1 ms: 8) but not in a training: the training's own
Python would be interrupted as often, and twice as many steps waited for more than 6 ms (60 and 34 of 1,592)."""


class _Turns:
    """What the interpreter's switch interval was before the first of several threads made it short."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._computing = 0
        self._before = self._ours = 0.0

    def shorten(self) -> None:
        with self._lock:
            self._computing += 1
            if self._computing == 1:
                self._before = sys.getswitchinterval()
                sys.setswitchinterval(min(SECONDS, self._before))
                self._ours = sys.getswitchinterval()  # rounded

    def restore(self) -> None:
        with self._lock:
            self._computing -= 1
            if not self._computing and sys.getswitchinterval() == self._ours:  # else somebody chose another meanwhile
                sys.setswitchinterval(self._before)


_TURNS = _Turns()


@contextmanager
def short_turns() -> Iterator[None]:
    """Make the interpreter change threads often while this lasts; afterwards it is as it was.

    It holds for the whole process, as Python knows only one interval, and so for the training's own operations too.
    Several threads may be within it at once.
    """
    _TURNS.shorten()
    try:
        yield
    finally:
        _TURNS.restore()
