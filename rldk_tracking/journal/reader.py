"""Reads a journal from a position on, while it is written: whole lines, and for each what it asks for.

A position is a count of bytes. What is no record is passed over and described: torn, binary or foreign lines, or such
as somebody has edited by hand.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from rldk_tracking.trackers.base import Row
from rldk_tracking.trackers.records import Call, calls, parse

_CHUNK_BYTES = 1 << 20
_LONGEST_LINE_BYTES = 1 << 26
KEPT_LINES = 1000
"""In memory, of a journal that cannot be written."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line.

    Attributes:
        start, end: its position, and that behind it.
        record: what it says; empty where it is no record.
        calls: what it asks of a tracker.
        problem: why it is no record, None where it is one.
    """

    start: int
    end: int
    record: dict[str, Any]
    calls: list[Call]
    problem: str | None = None

    @property
    def row(self) -> Row:
        """The row of a step's record."""
        metrics, step = self.calls[0][1]
        return Row.of(metrics, step, float(self.record["time"]))


class Lines(Protocol):
    """Where lines come from."""

    def lines(self, position: int) -> Iterator[tuple[int, bytes]]:
        """Whole lines from a position on, each with its own position. Raises OSError."""

    def aligned(self, position: int) -> int:
        """The beginning of the line that a position lies in; the end, where it lies behind that."""

    def replaced(self) -> bool:
        """Whether all was read of what there was, and something new has taken its place: positions begin anew."""


class FileLines:
    """A journal's lines. A file that was deleted is read to its end; then the one that took its place."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None

    def size(self) -> int:
        """Bytes in the file by now; a line that is torn or being written counts. Raises OSError."""
        return self.path.stat().st_size

    def lines(self, position: int) -> Iterator[tuple[int, bytes]]:
        file = self._opened()
        if file is None or os.fstat(file.fileno()).st_size <= position:
            return
        file.seek(position)
        data = file.read(_CHUNK_BYTES)
        while b"\n" not in data and len(data) < _LONGEST_LINE_BYTES:
            more = file.read(len(data))
            if not more:
                return
            data += more
        end = data.rfind(b"\n") + 1
        if not end:  # longer than any line of ours: passed over in pieces
            yield position, data
            return
        for line in data[:end].splitlines(keepends=True) if b"\r" not in data else _split(data[:end]):
            yield position, line
            position += len(line)

    def aligned(self, position: int) -> int:
        file = self._opened()
        if file is None:
            return 0
        position = max(0, min(position, os.fstat(file.fileno()).st_size))
        start = max(0, position - _CHUNK_BYTES)
        file.seek(start)
        return start + file.read(position - start).rfind(b"\n") + 1

    def replaced(self) -> bool:
        if self._file is None:
            return False
        try:
            same = os.path.samestat(os.fstat(self._file.fileno()), os.stat(self.path))
        except OSError:
            return False
        if not same:
            self.close()
        return not same

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _opened(self) -> BinaryIO | None:
        if self._file is None:
            try:
                self._file = self.path.open("rb")
            except FileNotFoundError:
                return None
        return self._file


class MemoryLines:
    """The last lines of a journal whose file takes no more of them.

    Args:
        most: lines that are kept.
        begin: position of the first one: the size of the file.

    Attributes:
        size: bytes so far, those before `begin` and those that are gone included.
    """

    def __init__(self, most: int = KEPT_LINES, begin: int = 0) -> None:
        self.begin = self.size = begin
        self._lines: deque[tuple[int, bytes]] = deque(maxlen=most)
        self._starts: list[int] = []

    def append(self, data: bytes) -> None:
        """Take a line, or nothing."""
        if data:
            self._lines.append((self.size, data))
            self._starts.append(self.size)
            self.size += len(data)

    def behind(self, position: int) -> int:
        """How many lines there were from a position on, those that are gone included."""
        return len(self._starts) - bisect_left(self._starts, position)

    def kept(self, position: int) -> list[tuple[int, bytes]]:
        """The lines from a position on that are not gone, each with its own position."""
        return [pair for pair in tuple(self._lines) if pair[0] >= position]


class JournalLines(FileLines):
    """The lines of a journal for the process that writes it: those in the file, then those that it did not take.

    Args:
        path: the file.
        memory: gives the lines that the file did not take, None as long as it takes them.
    """

    def __init__(self, path: Path, memory: Callable[[], MemoryLines | None]) -> None:
        super().__init__(path)
        self._memory = memory

    def lines(self, position: int) -> Iterator[tuple[int, bytes]]:
        memory = self._memory()
        if memory is None:
            return super().lines(position)
        kept = memory.kept(position)
        in_file = super().lines(position) if position < memory.begin else ()
        return iter([pair for pair in in_file if pair[0] < memory.begin] or kept)

    def aligned(self, position: int) -> int:
        memory = self._memory()
        if memory is None or position < memory.begin:
            return super().aligned(position)
        return min(position, memory.size)

    def replaced(self) -> bool:
        return self._memory() is None and super().replaced()


def read(lines: Lines, position: int = 0) -> Iterator[Entry]:
    """The next entries from a position on, as many as lie in about a megabyte. Blank lines are left out."""
    for start, line in lines.lines(position):
        yield entry_of(start, line)


def read_all(lines: Lines, position: int = 0, until: int | None = None) -> Iterator[Entry]:
    """All entries from a position on, up to another or the end."""
    while until is None or position < until:
        before = position
        for entry in read(lines, position):
            if until is not None and entry.end > until:
                return
            yield entry
            position = entry.end
        if position == before:
            return


def entry_of(start: int, line: bytes) -> Entry:
    """What a line says."""
    end = start + len(line)
    if not line.strip():
        return Entry(start, end, {}, [])
    try:
        record = parse(line)
        return Entry(start, end, record, calls(record))
    except ValueError as error:
        return Entry(start, end, {}, [], str(error))


def _split(data: bytes) -> list[bytes]:
    """At newlines alone: a carriage return within a line ends none."""
    return [line + b"\n" for line in data.split(b"\n")[:-1]]
