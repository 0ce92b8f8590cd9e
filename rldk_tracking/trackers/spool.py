"""Calls on their way to one tracker, on disk until it took them, so that a process that is killed loses none.

A file of JSON lines, readable by its owner only. Its first line has a fixed length and is rewritten in place:

| field | meaning |
|---|---|
| tracker | the tracker's name |
| taken | position in bytes up to which the tracker has taken the calls |
| trying | position up to which calls were under way when the process ended; the tracker may or may not have them |
| step | the last step that was handed over |

Calls follow as `rldk_tracking.trackers.journal` describes them, between them lines of type `address` that say which run
they belong to. When everything is taken the file is cut back, and removed at the end: a file that exists and that no
process has locked belongs to a training that was killed, or whose tracker was down at its end. The `Draft` beside it
holds the steps whose rows are being computed.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rldk_tracking.trackers.draft import Draft, drafts
from rldk_tracking.trackers.journal import dumps

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be removed by another process anyway
    fcntl = None  # type: ignore[assignment]

_HEADER = 192
_CUT_BACK = 256 * 1024
"""Bytes of taken calls that a file may hold before it is cut back."""
_COMPACT = 8 * 1024 * 1024
"""Bytes of taken calls that a file may hold while later ones still wait."""


@dataclass
class Head:
    """The first line."""

    tracker: str
    taken: int = _HEADER
    trying: int = _HEADER
    step: int = 0
    to: dict[str, str] = field(default_factory=dict)


class Spool:
    """The file of one tracker in one training. Safe to use from several threads.

    Positions count all bytes ever written and stay valid when the file is cut back.

    Args:
        path: where to make it, at the first call. If the name is taken, by another training or by what a killed one
            left, a number is added to it.
        tracker: the tracker's name.

    Raises (all methods):
        OSError: the disk does. What was not written completely is taken back.
    """

    def __init__(self, path: str | os.PathLike[str], tracker: str) -> None:
        self.path = Path(path)
        self._head = Head(tracker)
        self._lock = threading.RLock()
        self._descriptor: int | None = None
        self._draft: Draft | None = None
        self._end = _HEADER
        self._shift = 0

    @classmethod
    def reopen(cls, path: str | os.PathLike[str]) -> Spool:
        """What an earlier process left, with what it knew of steps whose rows it did not come to compute.

        Raises:
            BlockingIOError: the process that writes it is alive.
            ValueError: it is no such file.
        """
        spool = cls(path, "")
        spool._descriptor = descriptor = os.open(path, os.O_RDWR)
        try:
            _lock(descriptor)
            size = os.fstat(descriptor).st_size
            spool._head = head_of(os.pread(descriptor, _HEADER, 0), size)
            spool._end = size
            if size > _HEADER and os.pread(descriptor, 1, size - 1) != b"\n":
                spool._write(b"\n")  # half a line of a process that was killed
            for record, _ in spool.read(_HEADER):
                if record["type"] == "address":
                    spool._head.to = dict(record["to"])
                elif record["type"] == "metrics":
                    spool._head.step = max(spool._head.step, int(record["step"]))
            spool._draft = Draft(spool.path.with_suffix(".draft"))
            spool.append(drafts(spool._draft.path, spool._head.step))
            spool._draft.close()
        except BaseException:
            spool._descriptor = None
            os.close(descriptor)
            raise
        return spool

    @property
    def head(self) -> Head:
        """A copy of what is known of the file as a whole."""
        with self._lock:
            return Head(**vars(self._head))

    @property
    def first(self) -> int:
        """Position of the first call that the tracker has not taken."""
        with self._lock:
            return self._head.taken + self._shift

    @property
    def end(self) -> int:
        """Position behind the last call."""
        with self._lock:
            return self._end + self._shift

    def append(self, records: Iterable[Mapping[str, Any]]) -> int:
        """Write each record on a line of its own, handed to the operating system; returns the position behind them."""
        data = "".join(dumps(record) + "\n" for record in records).encode()
        with self._lock:
            self._write(data)
            return self._end + self._shift

    def hold(self, record: Mapping[str, Any]) -> None:
        """Keep what is known of a step until `let_go`. Once there is a file, this waits for no other call."""
        if self._draft is None:
            with self._lock:
                self._opened()
        if self._draft is not None:
            self._draft.hold((dumps(record) + "\n").encode())

    def let_go(self) -> None:
        """The oldest step that is held has its row, or will have none."""
        if self._draft is not None:
            self._draft.let_go()

    def note(self, to: Mapping[str, str] | None = None, step: int | None = None) -> None:
        """Where the calls go, and how far the training has come. The step is written with the next position."""
        with self._lock:
            if step is not None:
                self._head.step = step
            if to is not None and dict(to) != self._head.to:
                self._opened()
                self._head.to = dict(to)
                self._write((dumps({"type": "address", "to": dict(to)}) + "\n").encode())

    def trying(self, position: int) -> None:
        """Calls up to here are about to be made."""
        with self._lock:
            self._head.trying = max(self._head.trying, position - self._shift)
            self._write_head()

    def taken(self, position: int) -> None:
        """The tracker has taken the calls up to here."""
        with self._lock:
            self._head.taken = max(self._head.taken, position - self._shift)
            self._head.trying = max(self._head.trying, self._head.taken)
            if self._head.taken >= self._end and self._end > _CUT_BACK:
                self._cut_back()
            elif self._head.taken > _COMPACT and self._head.taken > self._end // 2:
                self._compact()
            self._write_head()

    def read(self, position: int, limit: int | None = None) -> Iterator[tuple[dict[str, Any], int]]:
        """The records from a position on, each with the position behind it; torn lines are left out."""
        with self._lock:
            if self._descriptor is None:
                return
            with os.fdopen(os.dup(self._descriptor), "rb") as file:
                place = file.seek(position - self._shift)
                lines: list[tuple[bytes, int]] = []
                while place < self._end and (limit is None or len(lines) < limit):
                    line = file.readline()
                    place += len(line)
                    lines.append((line, place + self._shift))
        for line, behind in lines:
            record = _record(line)
            if record is not None:
                yield record, behind

    def close(self) -> bool:
        """Remove the file if nothing waits in it. Returns whether something does."""
        with self._lock:
            if self._descriptor is None:
                return False
            waiting = self._head.taken < self._end and any(
                record["type"] != "address" for record, _ in self.read(self.first, limit=9)
            )
            try:
                if waiting:
                    self._write_head()
                else:
                    self.path.unlink(missing_ok=True)
                if self._draft is not None:
                    self._draft.close()
            finally:
                os.close(self._descriptor)
                self._descriptor = self._draft = None
            return waiting

    def _write(self, data: bytes) -> None:
        descriptor = self._opened()
        try:
            self._pour(data, self._end)
        except OSError:
            os.ftruncate(descriptor, self._end)
            raise
        self._end += len(data)

    def _write_head(self) -> None:
        head = {name: value for name, value in vars(self._head).items() if name != "to"}
        line = json.dumps({"type": "spool", **head}).encode()
        os.pwrite(self._opened(), line[: _HEADER - 1].ljust(_HEADER - 1) + b"\n", 0)

    def _opened(self) -> int:
        if self._descriptor is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            stem, number = self.path.stem, 1
            while True:
                try:
                    self._descriptor = _new(self.path)
                    break
                except FileExistsError:
                    number += 1
                    self.path = self.path.with_name(f"{stem}-{number}{self.path.suffix}")
            self._draft = Draft(self.path.with_suffix(".draft"))
            self._draft.close()  # one of another training, whose spool was removed
            self._end, self._shift = _HEADER, self._shift + self._end - _HEADER
            self._head.taken = self._head.trying = _HEADER
            try:
                self._write_head()
            except OSError:
                self.path.unlink(missing_ok=True)
                os.close(self._descriptor)
                self._descriptor = None
                raise
            to, self._head.to = self._head.to, {}
            self.note(to)
        return self._descriptor

    def _cut_back(self) -> None:
        # In this order: positions behind the end of the file are read as "nothing waits" after a kill in between.
        os.ftruncate(self._opened(), _HEADER)
        self._shift += self._end - _HEADER
        self._end = self._head.taken = self._head.trying = _HEADER
        self._write_head()
        to, self._head.to = self._head.to, {}
        self.note(to)

    def _compact(self) -> None:
        """Leave out what is taken, by way of a second file, so that a kill finds the one or the other."""
        old, waiting = self._opened(), self._end - self._head.taken
        scratch = self.path.with_suffix(".compacting")
        scratch.unlink(missing_ok=True)
        address = (dumps({"type": "address", "to": self._head.to}) + "\n").encode()
        start = _HEADER + len(address)
        moved, before = self._head.taken - start, (self._head.taken, self._head.trying)
        self._descriptor = _new(scratch)
        try:
            self._pour(address, _HEADER)
            for place in range(self._head.taken, self._end, _CUT_BACK):
                piece = os.pread(old, min(_CUT_BACK, self._end - place), place)
                self._pour(piece, start + place - self._head.taken)
            self._head.taken, self._head.trying = start, self._head.trying - moved
            self._write_head()
            os.replace(scratch, self.path)
        except OSError:
            os.close(self._descriptor)
            self._descriptor = old
            self._head.taken, self._head.trying = before
            scratch.unlink(missing_ok=True)
            raise
        os.close(old)
        self._shift, self._end = self._shift + moved, start + waiting

    def _pour(self, data: bytes, place: int) -> None:
        while data:
            done = os.pwrite(self._opened(), data, place)
            place, data = place + done, data[done:]


def head_of(line: bytes, size: int) -> Head:
    """Raises ValueError for a line that is no first line of such a file."""
    record = _record(line)
    if record is None or record["type"] != "spool":
        raise ValueError("not a file of calls that wait for a tracker")
    taken, trying = int(record["taken"]), int(record["trying"])
    if taken > size:
        taken = trying = _HEADER
    return Head(str(record["tracker"]), taken, min(trying, size), int(record["step"]))


def _new(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    if hasattr(os, "fchmod"):
        os.fchmod(descriptor, 0o600)
    _lock(descriptor)
    return descriptor


def _lock(descriptor: int) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        # Some network filesystems have no locks; a file without one is better than none.
        return


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "type" in record else None
