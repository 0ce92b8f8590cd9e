"""Tables of text: CSV with whatever separates its cells, and what W&B exports of a panel."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from rldk_tracking.history.formats.content import HEAD_BYTES, Content, Entries, Parsed, reason
from rldk_tracking.history.run_history import SUMMARY, UnreadableSourceError
from rldk_tracking.sources.logs import number

LONGEST_CELL_CHARACTERS = 1 << 24
SEPARATORS = ",;\t|"
BEHIND_COMMA = re.compile(r"(-?\d+),(\d+(?:[eE][-+]?\d+)?)")
"""A number as it is written where a semicolon separates."""
OF_RUN = " - "
"""W&B's export of a panel names its columns `RUN - METRIC`, and the metric's extremes `RUN - METRIC__MIN`, `__MAX`."""
EXTREMES = ("__MIN", "__MAX")
SUMMED_UP = {"train_runtime", *SUMMARY}


def is_table(content: Content) -> bool:
    """Whether one separator gives the first line names, and the second as many cells with a number or nothing."""
    return _separator(content) is not None


def read_table(content: Content) -> Parsed:
    """The rows of a table; of a W&B panel the rows of each run.

    Raises:
        UnreadableSourceError: it breaks off, a cell is too long, or it is not UTF-8.
    """
    separator = _separator(content) or ","
    limit = csv.field_size_limit(LONGEST_CELL_CHARACTERS)  # else 131,072: less than some completions
    line = 1
    try:
        reader = csv.DictReader(_text(content), delimiter=separator)
        entries: Entries = []
        for entry in reader:
            line = reader.line_num + 1
            entry.pop(None, None)  # cells beyond the names
            entries.append(_with_points(entry) if separator == ";" else entry)
    except (csv.Error, UnicodeDecodeError) as error:
        raise UnreadableSourceError(f"{content.path}:{line}: not CSV ({reason(error)}).") from error
    finally:
        csv.field_size_limit(limit)
    names = list(reader.fieldnames or ())
    if len(names) > 1 and all(OF_RUN in name for name in names[1:]):
        return Parsed("W&B's panel export", _by_run(names, entries))
    word = {",": "CSV", "\t": "tab-separated table"}.get(separator, f"table separated by {separator!r}")
    return Parsed(word, {"": without_empty_cells(entries)})


def without_empty_cells(entries: Entries) -> Entries:
    """Rows without the cells in which a table has nothing.

    A table has every column in every row, so that one of several kinds of rows (trained, evaluated, summed up) is full
    of holes, and pandas writes them as NaN. A NaN is a number that failed only where the rest of the row is there: at
    least half of the fullest row's numbers, and none of an evaluation or a summary.

    >>> without_empty_cells([{"loss": 0.5, "lr": 1e-6, "train_runtime": ""}, {"loss": "nan", "lr": 1e-6}])
    [{'loss': 0.5, 'lr': 1e-06}, {'loss': 'nan', 'lr': 1e-06}]
    """
    if len({len(entry) for entry in entries}) > 1:  # rows that say what they have
        return [{name: value for name, value in entry.items() if not _is_nothing(value)} for entry in entries]
    numbers = [{name for name, raw in entry.items() if _is_number(raw)} for entry in entries]
    fullest = max((names for names in numbers if not any(map(_is_of_other_kind, names))), key=len, default=set())
    found: Entries = []
    for entry, there in zip(entries, numbers, strict=True):
        is_other = any(map(_is_of_other_kind, there)) or len(there & fullest) < len(fullest) / 2
        kept = {
            name: value
            for name, value in entry.items()
            if not _is_nothing(value) and not (_is_nan(value) and (is_other or _is_of_other_kind(name)))
        }
        found.append(kept)
    return found


def _separator(content: Content) -> str | None:
    """The one that gives the first row the most names, and the second as many cells."""
    head = content.head.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
    best, most = None, 1
    for separator in SEPARATORS:
        try:
            reader = csv.reader(head[:HEAD_BYTES].splitlines(keepends=True), delimiter=separator)
            first, second = (row for row, _ in zip((row for row in reader if row), range(2), strict=False))
        except (csv.Error, ValueError):  # also fewer than two rows
            continue
        is_head = any(map(str.strip, first)) and not any(map(_is_number, first))
        if is_head and len(first) == len(second) > most and any(not c.strip() or _is_number(c) for c in second):
            best, most = separator, len(first)
    return best


def _text(content: Content) -> Iterator[str]:
    for count, line in content.lines():
        yield line.decode("utf-8-sig" if count == 1 else "utf-8")


def _with_points(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: BEHIND_COMMA.sub(r"\1.\2", cell) if _is_decimal(cell) else cell for name, cell in entry.items()}


def _is_decimal(cell: Any) -> bool:
    return isinstance(cell, str) and BEHIND_COMMA.fullmatch(cell.strip()) is not None


def _by_run(names: list[str], entries: Entries) -> dict[str, Entries]:
    runs: dict[str, Entries] = {}
    for column in names[1:]:
        run, _, metric = column.rpartition(OF_RUN)
        if metric.endswith(EXTREMES):
            continue
        rows = runs.setdefault(run, [{} for _ in entries])
        for row, entry in zip(rows, entries, strict=True):
            if not _is_nothing(entry[column]):
                row |= {names[0]: entry[names[0]], metric: entry[column]}  # type: ignore[operator]
    return {run: [row for row in rows if row] for run, rows in runs.items()}


def _is_nothing(value: Any) -> bool:
    return value is None or value == ""


def _is_number(raw: Any) -> bool:
    value = number(raw)
    return value is not None and not math.isnan(value)


def _is_nan(raw: Any) -> bool:
    value = number(raw)
    return value is not None and math.isnan(value)


def _is_of_other_kind(name: str) -> bool:
    return name in SUMMED_UP or name.startswith(("eval_", "eval/"))
