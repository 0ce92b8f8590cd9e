"""A destination, and what of it one process hands to another."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rldk_tracking.journal.offset import Offset, offset_path
from rldk_tracking.journal.reader import Lines
from rldk_tracking.trackers.base import Tracker
from rldk_tracking.trackers.resolve import RESUMABLE, resumed


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
        """Its tracker, with what is known beside the address by now."""
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
        kind = RESUMABLE.get(target.tracker)
        if kind is not None and not kind.repeatable:
            offset.position = lines.aligned(2**62)
    offset.refused = False
    return offset
