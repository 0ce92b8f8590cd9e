"""Whether a trainer's `train()` is still under way: an exception that ends it is told to no callback."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from types import CodeType, FrameType

NAME = "train"


class TrainCall:
    """The call of a function named `train` that is under way on this thread, if one is.

    It keeps the function's code and no frame: a frame would keep the model.
    """

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        frames = _frames(self._thread)
        self._code: CodeType | None = next((frame.f_code for frame in frames if frame.f_code.co_name == NAME), None)

    def is_over(self, later: TrainCall | None = None) -> bool:
        """Whether it has ended, from whatever thread this is asked. One that is not known never is.

        Args:
            later: another call, which is under way now.
        """
        if self._code is None:
            return False
        is_same = later is not None and (later._thread, later._code) == (self._thread, self._code)
        return sum(frame.f_code is self._code for frame in _frames(self._thread)) <= int(is_same)


def _frames(thread: int) -> Iterator[FrameType]:
    """Those of a thread, the innermost first; none of one that has ended."""
    frame = sys._current_frames().get(thread)
    while frame is not None:
        yield frame
        frame = frame.f_back
