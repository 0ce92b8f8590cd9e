"""What is known of a step while its row is computed, on disk beside the spool that the row is on its way to.

Where a row cannot be had at once it is computed beside the training, some milliseconds after its step is over. A
process that is killed before that leaves what was known of the step by then (see `rldk_tracking.step`).
"""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path
from typing import Any

from rldk_tracking.trackers.journal import read

_ROOM = 64 * 1024
"""Bytes that the file may grow to while there is always some step under way."""


class Draft:
    """A file that holds the drafts of the steps under way, readable by its owner only, made at the first one.

    Args:
        path: where to make it. A file of that name is replaced.

    Raises (all methods):
        OSError: the disk does.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: deque[bytes] = deque()
        self._descriptor: int | None = None
        self._end = 0

    def hold(self, line: bytes) -> None:
        """Write down a step that is over, as one line; on the training thread, so nothing is locked or flushed."""
        waiting = b"".join(tuple(self._lines))
        self._lines.append(line)
        descriptor = self._opened()
        if not waiting or self._end > _ROOM:
            os.ftruncate(descriptor, 0)
            self._end, line = 0, waiting + line
        data = b"\n" + line  # so that it is not glued to a line that the disk took only half of
        while data:
            done = os.pwrite(descriptor, data, self._end)
            self._end, data = self._end + done, data[done:]

    def let_go(self) -> None:
        """The oldest step has its row, which is in the spool, or will have none. From whatever thread."""
        if self._lines:
            self._lines.popleft()

    def close(self) -> None:
        """Remove the file; every step has its row."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        self._lines.clear()
        self.path.unlink(missing_ok=True)

    def _opened(self) -> int:
        if self._descriptor is None:
            self.path.unlink(missing_ok=True)
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        return self._descriptor


def drafts(path: Path, after: int) -> list[dict[str, Any]]:
    """What a killed process left of steps later than `after`, one record for each, in order."""
    if not path.exists():
        return []
    found = (record for record in read(path) if record.get("draft") and isinstance(record.get("step"), int))
    return sorted((record for record in found if record["step"] > after), key=lambda record: int(record["step"]))
