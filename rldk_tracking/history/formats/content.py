"""The bytes of a log file, read within limits, and what a reader finds in them."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, cast

from rldk_tracking.history.run_history import UnreadableSourceError

LARGEST_JSON_BYTES = 1 << 30
"""A JSON file is read as a whole; lines and tables are not. Of a packed file no more is unpacked, whatever it holds."""
LONGEST_LINE_BYTES = 1 << 26
HEAD_BYTES = 1 << 16
GZIP = b"\x1f\x8b"

Entries = list[Mapping[str, Any]]


@dataclass(frozen=True)
class Parsed:
    """What a reader finds in a file.

    Attributes:
        format: what the file is, for people.
        runs: entries in order, by the run's name; the one of a file that names none is "".
        settings: what the file says of the run's configuration.
        skipped: lines of a journal that hold no record.
    """

    format: str
    runs: Mapping[str, Entries]
    settings: Mapping[str, Any] = field(default_factory=dict)
    skipped: int = 0


class Content:
    """A file, unpacked where gzip packed it.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            self.is_packed = file.read(len(GZIP)) == GZIP

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The bytes.

        Raises:
            UnreadableSourceError: what gzip packed is damaged.
        """
        try:
            with gzip.open(self.path) if self.is_packed else self.path.open("rb") as file:
                yield cast("BinaryIO", file)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UnreadableSourceError(f"{self.path}: damaged gzip ({reason(error)}).") from error

    @cached_property
    def head(self) -> bytes:
        """The first line that is not empty, as a whole, and some bytes more."""
        with self.open() as file:
            head = file.read(HEAD_BYTES)
            if b"\n" not in head.strip():
                head += file.readline(LONGEST_LINE_BYTES)
            return head + file.read(HEAD_BYTES)

    @property
    def first_lines(self) -> list[bytes]:
        """Of the head, the lines that are not empty."""
        return [line for line in self.head.removeprefix(b"\xef\xbb\xbf").splitlines() if line.strip()]

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """1-based number and content of each line.

        Raises:
            UnreadableSourceError: a line, or what was unpacked, is too long.
        """
        total = 0
        with self.open() as file:
            for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE_BYTES), b""), 1):
                total += len(line)
                if len(line) == LONGEST_LINE_BYTES:
                    raise UnreadableSourceError(f"{self.path}:{number}: longer than {LONGEST_LINE_BYTES >> 20} MiB.")
                if self.is_packed and total > LARGEST_JSON_BYTES:
                    raise UnreadableSourceError(
                        f"{self.path}:{number}: unpacked, it is larger than {LARGEST_JSON_BYTES >> 30} GiB."
                    )
                yield number, line

    def whole(self) -> bytes:
        """All of it.

        Raises:
            UnreadableSourceError: it is too long.
        """
        with self.open() as file:
            content = file.read(LARGEST_JSON_BYTES + 1)
        if len(content) > LARGEST_JSON_BYTES:
            raise UnreadableSourceError(
                f"{self.path}: larger than {LARGEST_JSON_BYTES >> 30} GiB; write it as JSON lines."
            )
        return content


def reason(error: Exception) -> str:
    """What is wrong, in a few words."""
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8"
    return error.msg if isinstance(error, json.JSONDecodeError) else str(error).partition("\n")[0]
