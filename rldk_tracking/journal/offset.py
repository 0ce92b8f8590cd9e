"""Where a journal goes, and what each destination has taken of it: `run.<id>.offset.json`, replaced as a whole.

The file is readable by its owner only, and holds no secret.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from rldk_tracking.journal.reader import Lines
from rldk_tracking.trackers.base import Tracker
from rldk_tracking.trackers.registry import resumed, tracker_class

VERSION = 1
_MOST_RANGES = 1000
_MOST_SAID = 100
_MOST_SKIPPED = 100


@dataclass
class Offset:
    """The state of one destination.

    Attributes:
        path: the file.
        position: everything before it is done with.
        part: how many calls of the record at `position` are done too.
        trying: whether the next call was begun, of a tracker in which a repetition is seen.
        to: the tracker's address, with what was found out about its run since.
        url: of the run's page, where there is one.
        errors: calls that failed so far, each try counted.
        rejected: ranges of positions that the destination would not take: start, end, why.
        refused_calls: calls that were refused, of a tracker in which a repetition is seen: position and number of each.
        uncertain: how many calls may or may not have arrived, and are not repeated.
        skipped: lines that were no record: position and why, the first of them.
        down_since: since when it does not answer, seconds since the epoch; None where it does.
        refused: whether it does not take the courier's credentials.
        fault: the last fault, in words.
        said: what was announced, for the terminal of the training.
        closed: whether the run was brought to its end there, and nothing came since.
    """

    path: Path
    position: int = 0
    part: int = 0
    trying: bool = False
    to: dict[str, str] = field(default_factory=dict)
    url: str | None = None
    errors: int = 0
    rejected: list[tuple[int, int, str]] = field(default_factory=list)
    refused_calls: list[tuple[int, int]] = field(default_factory=list)
    uncertain: int = 0
    skipped: list[tuple[int, str]] = field(default_factory=list)
    down_since: float | None = None
    refused: bool = False
    fault: str = ""
    said: list[str] = field(default_factory=list)
    closed: bool = False

    @classmethod
    def load(cls, path: Path) -> Offset:
        """What the file says; one that begins anew where there is none.

        Raises:
            ValueError: there is a file, but it cannot be understood.
            OSError: it cannot be read.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return cls(path)
        try:
            return _from(path, json.loads(text))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(f"{path.name} cannot be understood") from error

    def move(self, position: int) -> None:
        """Everything before this position is done with."""
        self.position, self.part, self.trying = position, 0, False

    def reject(self, start: int, end: int, why: str) -> None:
        """Note what the destination will not take. Neighbours for one reason become one range."""
        last = self.rejected[-1] if self.rejected else None
        if last is not None and (last[1:] == (start, why) or len(self.rejected) >= _MOST_RANGES):
            self.rejected[-1] = (last[0], end, last[2])
        elif last is None or last[:2] != (start, end):
            self.rejected.append((start, end, why))

    def skip(self, position: int, why: str) -> None:
        """Note a line that is no record."""
        if len(self.skipped) < _MOST_SKIPPED:
            self.skipped.append((position, why))

    def say(self, text: str) -> None:
        """Note what is to be announced, and leave it to the file's readers."""
        self.said = [*self.said, text][-_MOST_SAID:]
        self.save()

    def save(self) -> None:
        """Replace the file. Where the disk does not take it, the state is kept in memory alone."""
        state = asdict(self) | {"version": VERSION}
        del state["path"]
        data = json.dumps(state).encode()
        half = self.path.with_name(f"{self.path.name}.{os.getpid()}.new")
        try:
            descriptor = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                if os.write(descriptor, data) < len(data):
                    raise OSError("the disk is full")
            finally:
                os.close(descriptor)
            os.replace(half, self.path)
        except OSError:
            with contextlib.suppress(OSError):
                half.unlink()
            with contextlib.suppress(OSError):
                self._overwrite(data)

    def _overwrite(self, data: bytes) -> None:
        """On a full disk the file's own place can still be written, where it does not grow."""
        descriptor = os.open(self.path, os.O_RDWR)
        try:
            if len(data) <= os.fstat(descriptor).st_size:
                os.write(descriptor, data.ljust(os.fstat(descriptor).st_size))
        finally:
            os.close(descriptor)


def offset_path(journal: Path, name: str) -> Path:
    """The file of a destination by its id."""
    return journal.with_name(f"{journal.stem}.{name}.offset.json")


def _from(path: Path, data: Mapping[str, Any]) -> Offset:
    if not isinstance(data, dict) or not isinstance(data.get("to", {}), dict):
        raise ValueError("no offset")
    offset = Offset(path)
    for item in fields(Offset):
        if item.name in data and item.name != "path":
            setattr(offset, item.name, data[item.name])
    offset.position, offset.part = max(0, int(offset.position)), max(0, int(offset.part))
    offset.to = {str(name): str(value) for name, value in offset.to.items()}
    offset.rejected = [(int(start), int(end), str(why)) for start, end, why in offset.rejected]
    offset.refused_calls = [(int(position), int(part)) for position, part in offset.refused_calls]
    offset.skipped = [(int(position), str(why)) for position, why in offset.skipped]
    offset.said = [str(line) for line in offset.said]
    offset.errors, offset.uncertain = int(offset.errors), int(offset.uncertain)
    return offset


@dataclass(frozen=True)
class Target:
    """One destination, as it is handed over. Its repr shows no secret.

    Attributes:
        id: of its offset.
        tracker: name of the tracker.
        to: its address.
        secrets: its secrets.
    """

    id: str
    tracker: str
    to: Mapping[str, str]
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)

    def connect(self, to: Mapping[str, str]) -> Tracker:
        """Its tracker, with what is known besides the address by now."""
        return resumed(self.tracker, {**self.to, **to}, self.secrets)


@dataclass(frozen=True)
class Destination:
    """A tracker that the courier serves.

    Attributes:
        id: of its offset: its name, with `-2` for a second one of the name.
        tracker: joined, with `in_process` False.
    """

    id: str
    tracker: Tracker

    def target(self) -> Target:
        """What is handed over."""
        return Target(self.id, self.tracker.name, dict(self.tracker.address()), dict(self.tracker.secrets()))


def named(trackers: Iterable[Tracker]) -> list[Destination]:
    """Each tracker with a name of its own: "mlflow", "webhook", "webhook-2"."""
    found: list[Destination] = []
    for tracker in trackers:
        number = 1 + sum(known.tracker.name == tracker.name for known in found)
        found.append(Destination(tracker.name if number == 1 else f"{tracker.name}-{number}", tracker))
    return found


def load_offset(journal: Path, target: Target, lines: Lines, log: logging.Logger) -> Offset:
    """The offset of a destination. One that cannot be understood is begun anew where that repeats nothing."""
    path = offset_path(journal, target.id)
    try:
        offset = Offset.load(path)
    except (ValueError, OSError) as error:
        log.warning("%s; it is begun anew.", error)
        offset = Offset(path)
        kind = tracker_class(target.tracker)
        if kind is not None and not kind.repeatable:
            offset.position = lines.aligned(2**62)
    offset.refused = False
    return offset
