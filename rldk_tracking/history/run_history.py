"""Past runs as the rows that a live run would have had."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from rldk_tracking.history.handwritten import plain
from rldk_tracking.history.handwritten import read as read_handwritten
from rldk_tracking.history.rows import STEP_NAMES, of_training, step_names, step_of, steps_of
from rldk_tracking.history.unweighted import KEY as UNWEIGHTED
from rldk_tracking.history.unweighted import unweighted_score
from rldk_tracking.history.words import by_words, misspelt_column, unread
from rldk_tracking.sources.logs import canonical, number
from rldk_tracking.sources.own_names import OwnNames

PREFIX = "train/"
"""What transformers puts before our series where it writes them: in TensorBoard and the like."""
JUDGED = ("rldk/health/", "rldk/alerts/")
"""Series that rules produced; a replay produces its own."""
SUMMARY = frozenset(
    {"train_runtime", "train_loss", "total_flos", "train_samples_per_second", "train_steps_per_second",
     "train_tokens_per_second", "num_input_tokens_seen"}
)  # fmt: skip
"""What transformers logs once a training is over. A tracker stores it at the last step, beside that step's row."""
MOST_NAMED = 8
"""Columns that a note names."""


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
        ignored: columns with numbers that no key took and that somebody may miss.
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

    What is asked for by names that are not in the catalogue, `own`, is in them too. A column under nobody's name is
    taken where its words leave no doubt, see `rldk_tracking.history.words`.

    A score that was logged beside the reward and is no part of it becomes `rldk/reward/unweighted`, see
    `rldk_tracking.history.unweighted`; a name that the user gave for it goes before. Where a source has series of ours,
    they alone are read: two copies of one quantity must not both be judged.

    Raises:
        UnreadableSourceError: not one entry has a known name.
    """
    rows = [_named(entry) for entry in entries]
    places = {id(row): place for place, row in enumerate(rows)}
    seen = sorted(set[str]().union(*rows))
    is_log = not any(map(_is_ours, seen))
    notes: list[str] = []
    on_columns: list[str] = []
    ignored: tuple[str, ...] = ()
    steps = [place if (step := step_of(row, STEP_NAMES)) is None else step for place, row in enumerate(rows)]
    if is_log:
        names = step_names(seen)
        rows, left_out = of_training(rows, names)
        steps, on_steps = steps_of(rows, names, [places[id(row)] for row in rows])
        unweighted = unweighted_score(rows)
        if unweighted is not None:
            aliases = {unweighted: UNWEIGHTED, **(aliases or {})}
        taken, on_columns, ignored = _columns(rows, aliases or {}, frozenset() if own is None else own.forms)
        aliases = {**taken, **(aliases or {})}
        notes = [*on_columns, *left_out, *on_steps]
    found: list[Entry] = []
    wrong = WrongCells(aliases)
    repeated = 0
    for entry, step in zip(rows, steps, strict=True):
        wrong.look(places[id(entry)], entry)
        row = named_row(entry, aliases) if is_log else own_row(entry)
        if own is not None:
            row |= own.read(entry)
        if row:
            repeated += is_log and bool(found) and found[-1].step == step and not row.keys().isdisjoint(found[-1].row)
            found.append(Entry(places[id(entry)], step, row))
    if not found:
        raise UnreadableSourceError(
            f"{source}: {len(places)} entries, and no name in them that stands for a known key "
            f"({_some(seen) or 'nothing'}). {'. '.join(on_columns)}".rstrip()
        )
    if repeated:
        notes.append(f"{'1 row has' if repeated == 1 else f'{repeated} rows have'} the step of the row before")
    return History(source, found, dict(settings or {}), ignored, (*wrong.notes(), *notes), is_log)


def _columns(
    entries: Sequence[Mapping[str, Any]], aliases: Mapping[str, str], asked: Collection[str]
) -> tuple[dict[str, str], list[str], tuple[str, ...]]:
    """Which columns are taken by their words, sentences on the columns, and those that are not read."""
    numbered: dict[str, None] = {}
    for entry in entries:
        for name, raw in entry.items():
            if name not in numbered and number(raw) is not None:
                numbered[name] = None
    alone = {name: row_of({name: 1.0}, aliases) for name in numbered}
    # Names that are known beside others only. Each has a number of its own, by which it is found again.
    together = row_of({name: float(place) for place, name in enumerate(numbered, 2)}, aliases)
    read = set(together.values())
    others = [name for place, name in enumerate(numbered, 2) if not alone[name] and place not in read]
    given = {key for row in (*alone.values(), together) for key in row}
    taken, notes = by_words(entries, others, given)
    if taken:
        notes.insert(0, f"took {', '.join(f'{name} for {key}' for name, key in taken.items())}")
    ignored = tuple(unread([name for name in others if name not in taken and name not in asked]))
    if ignored:
        near = {name: key for name in ignored if (key := misspelt_column(name)) is not None}
        hints = [f"--alias {name}={key}" for name, key in near.items() if key not in {*given, *taken.values()}]
        notes.append("; ".join((f"not read: {_some(ignored)}", *hints[:3])))
    return taken, notes, ignored


def _some(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(name[:60] for name in names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def row_of(entry: Mapping[str, Any], aliases: Mapping[str, str] | None = None) -> dict[str, float]:
    """One log entry under catalogue keys. Keys that are ours already stay as they are."""
    return own_row(entry) or named_row(entry, aliases)


def named_row(entry: Mapping[str, Any], aliases: Mapping[str, str] | None) -> dict[str, float]:
    """One log entry under catalogue keys, where no key is ours already."""
    return read_handwritten(entry, aliases) | canonical(entry)


def own_row(entry: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an entry that stand under keys of ours, but for those that rules produced."""
    return {key: value for key, raw in entry.items() if _is_ours(key) and (value := number(raw)) is not None}


def _is_ours(key: str) -> bool:
    return key.startswith("rldk/") and not key.startswith(JUDGED)


def _named(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry without transformers' summary, and with our own names as they are in the catalogue."""
    return {name: entry[written] for written, name in _names(tuple(entry))}


@lru_cache(maxsize=256)
def _names(written: tuple[Any, ...]) -> list[tuple[Any, str]]:
    """What an entry's names become, for those that stay."""
    names = [(name, str(name)) for name in written]
    is_summary = any(plain(name) == "train_runtime" for _, name in names)
    return [
        (old, name.removeprefix(PREFIX) if name.startswith(f"{PREFIX}rldk/") else name)
        for old, name in names
        if not (is_summary and plain(name) in SUMMARY)
    ]


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
            if (
                type(raw) is float
                or type(raw) is int
                or raw is None
                or raw == ""
                or number(raw) is not None
                or not self._is_known(name)
            ):
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
