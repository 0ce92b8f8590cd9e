"""Past runs as the rows that a live run would have had."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rldk_tracking.history.handwritten import read as read_handwritten
from rldk_tracking.history.unweighted import KEY as UNWEIGHTED
from rldk_tracking.history.unweighted import unweighted_score
from rldk_tracking.sources.logs import canonical, number

STEP_NAMES = ("step", "global_step", "train/global_step", "_step", "Step", "iteration")


class UnreadableSourceError(ValueError):
    """The source is not there, or holds nothing that can be read; the message says what was looked for."""


@dataclass(frozen=True)
class Entry:
    """One row of the past.

    Attributes:
        index: 0-based position among the source's entries, rows without any known key counted.
        step: the trainer's step, or the index where the source has none.
        row: catalogue keys.
    """

    index: int
    step: int
    row: dict[str, float]


@dataclass(frozen=True)
class History:
    """A run that is over.

    Attributes:
        source: what it was read from.
        entries: in order. Entries without a known key are left out.
        settings: what is known of the run's configuration.
        ignored: names in the source that no key stands for.
    """

    source: str
    entries: list[Entry]
    settings: dict[str, Any] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()


def history(
    source: str,
    entries: Iterable[Mapping[str, Any]],
    settings: Mapping[str, Any] | None = None,
    aliases: Mapping[str, str] | None = None,
) -> History:
    """Log entries as rows.

    A score that was logged beside the reward and is no part of it becomes `rldk/reward/unweighted`, see
    `rldk_tracking.history.unweighted`; a name that the user gave for it goes before.

    Raises:
        UnreadableSourceError: not one entry has a known name.
    """
    entries = list(entries)
    unweighted = unweighted_score(entries)
    if unweighted is not None:
        aliases = {unweighted: UNWEIGHTED, **(aliases or {})}
    found: list[Entry] = []
    unknown: set[str] = set()
    count = 0
    for index, entry in enumerate(entries):
        count += 1
        row = row_of(entry, aliases)
        if row:
            found.append(Entry(index, _step(entry, index), row))
        else:
            unknown |= set(map(str, entry))
    if not found:
        seen = ", ".join(sorted(unknown)[:12]) or "nothing"
        raise UnreadableSourceError(
            f"{source}: {count} entries, and no name in them that stands for a known key ({seen})."
        )
    return History(source, found, dict(settings or {}), tuple(sorted(unknown)))


def row_of(entry: Mapping[str, Any], aliases: Mapping[str, str] | None = None) -> dict[str, float]:
    """One log entry under catalogue keys. Keys that are ours already stay as they are."""
    ours = {key: value for key, raw in entry.items() if key.startswith("rldk/") and (value := number(raw)) is not None}
    if ours:
        return ours
    return read_handwritten(entry, aliases) | canonical(entry)


def _step(entry: Mapping[str, Any], index: int) -> int:
    for name in STEP_NAMES:
        value = number(entry.get(name))
        if value is not None and value == value and abs(value) < 2**53:
            return int(value)
    return index
