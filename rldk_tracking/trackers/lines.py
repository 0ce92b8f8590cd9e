"""What a journal is written with: the record of a step as a line of strict JSON, and a file of whole lines.

`rldk_tracking.trackers.records` describes the records, and reads them.
"""

from __future__ import annotations

import errno
import json
import math
import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rldk_tracking.health.alert import Alert

try:
    import fcntl
except ImportError:  # Windows has none of these; there two processes for one file are not kept apart.
    fcntl = None  # type: ignore[assignment]

_TAKEN = (errno.EWOULDBLOCK, errno.EACCES, errno.EAGAIN)


def row_record(step: int, metrics: Mapping[str, float], alerts: Iterable[Alert], time: float) -> dict[str, Any]:
    """The record of one step: its row, and what was found in it."""
    record: dict[str, Any] = {"type": "metrics", "time": time, "step": step, "metrics": dict(metrics)}
    found = [alert.as_dict() for alert in alerts]
    return record | {"alerts": found} if found else record


def end_record(status: str, step: int, exception: str | None, time: float) -> dict[str, Any]:
    """The record of a run's end: "finished", "stopped" or "crashed", with the last lines of the exception."""
    return {"type": "end", "time": time, "status": status, "step": step, "exception": exception}


def dumps(record: Mapping[str, Any]) -> str:
    """One line of strict JSON: non-finite numbers become the strings "nan", "inf", "-inf", other objects their str."""
    try:
        return json.dumps(record, allow_nan=False, default=_plain)
    except ValueError:
        return json.dumps(_finite(record), allow_nan=False, default=_plain)


def line_of(record: Mapping[str, Any]) -> bytes:
    """The line of a record, with its end."""
    return (dumps(record) + "\n").encode()


def try_lock(descriptor: int) -> bool:
    """Lock an open file, until it is closed. False where another process holds it.

    True also on a file system that has no locks: a training must not stop for that.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _TAKEN
    return True


class LineFile:
    """An append-only file that always consists of whole lines, readable by its owner only.

    It is made at the first line. Safe to use from several threads.

    Args:
        path: where it is; its folder is made where it is missing.

    Raises (all methods):
        OSError: the disk does. What was half written is taken back.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._torn = False

    @property
    def is_gone(self) -> bool:
        """Whether the file was deleted since it was opened."""
        return self._descriptor is not None and os.fstat(self._descriptor).st_nlink == 0

    def open(self) -> int:
        """Open the file where it is not open yet, and end the line that a killed process left torn."""
        if self._descriptor is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                _prepare(descriptor)
            except OSError:
                os.close(descriptor)
                raise
            self._descriptor = descriptor
        return self._descriptor

    def try_lock(self) -> bool:
        """Lock the file, open or not, until it is closed; a crash releases it. False where another process has it.

        True also where it cannot be opened: a training must not stop for that.
        """
        try:
            return try_lock(self.open())
        except OSError:
            return True

    def append(self, data: bytes) -> None:
        """Hand whole lines to the operating system, in one write."""
        with self._lock:
            descriptor = self.open()
            if self._torn:
                data = b"\n" + data
            written = os.write(descriptor, data)
            if written < len(data):
                self._complete(descriptor, data, written)
            self._torn = False

    def close(self) -> None:
        """Close the file; a later `append` opens it again."""
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None

    def abandon(self) -> None:
        """In a forked child, whose parent may have been writing in another thread: close the child's descriptor."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _complete(self, descriptor: int, data: bytes, written: int) -> None:
        """Write the rest, or take back what a full disk took of it."""
        end = os.lseek(descriptor, 0, os.SEEK_CUR)
        start = end - written
        try:
            while written < len(data):
                written += os.write(descriptor, data[written:])
        except OSError:
            end = os.lseek(descriptor, 0, os.SEEK_CUR)
            if os.fstat(descriptor).st_size == end:
                os.ftruncate(descriptor, start)
            else:  # another process has appended its own line behind ours
                self._torn = True
            raise


def _plain(value: Any) -> Any:
    """A number or an array of a library, as Python's own; of anything else the words."""
    plain = getattr(value, "tolist", None)
    return _finite(plain()) if callable(plain) else str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def _prepare(descriptor: int) -> None:
    if hasattr(os, "fchmod"):
        os.fchmod(descriptor, 0o600)
    size = os.fstat(descriptor).st_size
    if size:
        # A process that was killed may have left half a line: what follows must not be glued to it.
        os.lseek(descriptor, size - 1, os.SEEK_SET)
        if os.read(descriptor, 1) != b"\n":
            os.write(descriptor, b"\n")
