"""Past runs as the rows that a live run would have had."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rldk_tracking.history.handwritten import plain
from rldk_tracking.history.handwritten import read as read_handwritten
from rldk_tracking.history.unweighted import KEY as UNWEIGHTED
from rldk_tracking.history.unweighted import unweighted_score
from rldk_tracking.sources.logs import canonical, number
from rldk_tracking.sources.own_names import OwnNames

STEP_NAMES = ("step", "global_step", "train/global_step", "eval/global_step", "_step", "Step", "iteration")
PREFIX = "train/"
"""What transformers puts before our series where it writes them: in TensorBoard and the like."""
JUDGED = ("rldk/health/", "rldk/alerts/")
"""Series that rules produced; a replay produces its own."""
SUMMARY = frozenset(
    {"train_runtime", "train_loss", "total_flos", "train_samples_per_second", "train_steps_per_second",
     "train_tokens_per_second", "num_input_tokens_seen"}
)  # fmt: skip
"""What transformers logs once a training is over. A tracker stores it at the last step, beside that step's row."""


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
        notes: sentences on the reading that a person should know: what was left out, what else there was.
        is_log: whether its numbers stand under a trainer's names, so that it can hold no more than a log does.
        format: what the source was read as, for people.
    """

    source: str
    entries: list[Entry]
    settings: dict[str, Any] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    is_log: bool = False
    format: str = ""


def history(
    source: str,
    entries: Iterable[Mapping[str, Any]],
    settings: Mapping[str, Any] | None = None,
    aliases: Mapping[str, str] | None = None,
    own: OwnNames | None = None,
) -> History:
    """Log entries as rows.

    What is asked for by names that are not in the catalogue, `own`, is in them too.

    A score that was logged beside the reward and is no part of it becomes `rldk/reward/unweighted`, see
    `rldk_tracking.history.unweighted`; a name that the user gave for it goes before. Where a source has series of ours,
    they alone are read: two copies of one quantity must not both be judged.

    Raises:
        UnreadableSourceError: not one entry has a known name.
    """
    entries = [_named(entry) for entry in entries]
    is_log = not any(_is_ours(key) for entry in entries for key in entry)
    unweighted = unweighted_score(entries) if is_log else None
    if unweighted is not None:
        aliases = {unweighted: UNWEIGHTED, **(aliases or {})}
    found: list[Entry] = []
    unknown: set[str] = set()
    wrong = WrongCells(aliases)
    for index, entry in enumerate(entries):
        wrong.look(index, entry)
        row = row_of(entry, aliases) if is_log else own_row(entry)
        row |= {} if own is None else own.read(entry)
        if row:
            found.append(Entry(index, _step(entry, index), row))
        else:
            unknown |= set(entry)
    if not found:
        seen = ", ".join(sorted(unknown)[:12]) or "nothing"
        raise UnreadableSourceError(
            f"{source}: {len(entries)} entries, and no name in them that stands for a known key ({seen})."
        )
    return History(source, found, dict(settings or {}), tuple(sorted(unknown)), wrong.notes(), is_log)


def row_of(entry: Mapping[str, Any], aliases: Mapping[str, str] | None = None) -> dict[str, float]:
    """One log entry under catalogue keys. Keys that are ours already stay as they are."""
    return own_row(entry) or read_handwritten(entry, aliases) | canonical(entry)


def own_row(entry: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an entry that stand under keys of ours, but for those that rules produced."""
    return {key: value for key, raw in entry.items() if _is_ours(key) and (value := number(raw)) is not None}


def _is_ours(key: str) -> bool:
    return key.startswith("rldk/") and not key.startswith(JUDGED)


def _named(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry without transformers' summary, and with our own names as they are in the catalogue."""
    is_summary = any(plain(str(name)) == "train_runtime" for name in entry)
    named: dict[str, Any] = {}
    for name, value in entry.items():
        name = str(name)
        if is_summary and plain(name) in SUMMARY:
            continue
        named[name.removeprefix(PREFIX) if name.startswith(f"{PREFIX}rldk/") else name] = value
    return named


class WrongCells:
    """Counts what stands under a known name and is no number. A cell that is empty is missing, not wrong."""

    def __init__(self, aliases: Mapping[str, str] | None) -> None:
        self._aliases = aliases
        self._known: dict[str, bool] = {}
        self._count = 0
        self._first = ""

    def look(self, index: int, entry: Mapping[str, Any]) -> None:
        """Take an entry."""
        for name, raw in entry.items():
            if type(raw) is float or raw is None or raw == "" or number(raw) is not None or not self._is_known(name):
                continue
            self._count += 1
            if self._count == 1:
                self._first = f"{name} in row {index + 1}: {str(raw)[:40]!r}"

    def notes(self) -> tuple[str, ...]:
        """A sentence, where there were any."""
        if not self._count:
            return ()
        words = "1 value is" if self._count == 1 else f"{self._count} values are"
        return (f"{words} no number; the first is {self._first}",)

    def _is_known(self, name: str) -> bool:
        if name not in self._known:
            self._known[name] = bool(row_of({name: 1.0}, self._aliases))
        return self._known[name]


def _step(entry: Mapping[str, Any], index: int) -> int:
    for name in STEP_NAMES:
        value = number(entry.get(name))
        if value is not None and value == value and abs(value) < 2**53:
            return int(value)
    return index
