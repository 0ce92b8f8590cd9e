"""An append-only file that always consists of whole lines, readable by its owner only."""

from __future__ import annotations

import os
import threading
from pathlib import Path


class LineFile:
    """Appends lines. The file is made at the first one. Safe to use from several threads.

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
        """Open the file where it is not open yet, and end the line that a killed process left torn.

        Returns:
            The descriptor, for a lock on it.
        """
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


def _prepare(descriptor: int) -> None:
    if hasattr(os, "fchmod"):
        os.fchmod(descriptor, 0o600)
    size = os.fstat(descriptor).st_size
    if size:
        # A process that was killed may have left half a line: what follows must not be glued to it.
        os.lseek(descriptor, size - 1, os.SEEK_SET)
        if os.read(descriptor, 1) != b"\n":
            os.write(descriptor, b"\n")
