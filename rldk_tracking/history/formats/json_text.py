"""JSON: lines of objects, the journal among them, and files that are one value."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic_core import from_json

from rldk_tracking.history.formats.content import Content, Entries, Parsed, reason
from rldk_tracking.history.formats.notebook import is_notebook, read_notebook
from rldk_tracking.history.formats.tables import without_empty_cells
from rldk_tracking.history.run_history import UnreadableSourceError
from rldk_tracking.trackers.records import run_info

SETTINGS = ("max_steps", "num_train_epochs", "train_batch_size")
"""What a `trainer_state.json` says of the configuration."""
WITHIN = ("data", "metrics", "logs")
"""Under which loggers write a step's numbers together: verl's file has `{"step": 1, "data": {...}}`."""
HISTORIES = ("history", "log_history", "logs", "log", "metrics")
"""What is read of an object before anything else in it that could be rows."""
DEEPEST = 3
"""Objects around the rows, at most."""
OPENS = re.compile(rb'\s*(\{\s*("|\}|$)|\[\s*(\{|\[|\]|"|$|[-\d.]+\s*[,\]]))')
PRIME = re.compile(r"train/agg/effective/(?P<agent>[^/]+)/(?P<name>reward|num_output_tokens|is_truncated)/mean")
PRIME_NAMES = {
    "loss/mean": "loss",
    "entropy/all/mean": "entropy",
    "optim/grad_norm": "grad_norm",
    "optim/lr": "learning_rate",
    "reward": "reward",
    "num_output_tokens": "mean_completion_tokens",
    "is_truncated": "truncated_fraction",
}
"""prime-rl's names to names that are known elsewhere."""


def is_json_lines(content: Content) -> bool:
    """Whether the first line is an object, and the second begins like one; a single one: a journal's record."""
    first, *more = content.first_lines or [b""]
    if more:
        return more[0].lstrip().startswith(b"{") and _object(first) is not None
    return {"type", "time"} <= (_object(first) or {}).keys()


def is_json(content: Content) -> bool:
    """Whether it opens like one value, and does not close it on the first line with more to come."""
    first, *more = content.first_lines or [b""]
    is_closed = bool(more) and _object(first) is not None
    return OPENS.match(content.head.removeprefix(b"\xef\xbb\xbf")) is not None and not is_closed


def read_json_lines(content: Content) -> Parsed:
    """Log entries, or the records of a journal.

    Raises:
        UnreadableSourceError: a line is no object. The last one of a file that is being written may be torn.
    """
    entries: Entries = []
    settings: Mapping[str, Any] = {}
    skipped = 0
    is_journal = False
    for number, line in content.lines():
        if not line.strip():
            continue
        try:
            entry = _decoded(line)
        except RecursionError as error:
            raise UnreadableSourceError(f"{content.path}:{number}: nested too deeply.") from error
        except ValueError as error:  # also of a number with thousands of digits
            if is_journal:  # whose lines a kill may tear
                skipped += 1
                continue
            if not line.endswith(b"\n"):  # the end of a file that is being written, or whose writer was killed
                break
            raise UnreadableSourceError(f"{content.path}:{number}: not JSON ({reason(error)}).") from error
        if not isinstance(entry, dict):
            raise UnreadableSourceError(f"{content.path}:{number}: not a JSON object.")
        if "type" in entry and "time" in entry:
            is_journal, metrics = True, entry.get("metrics")
            if entry["type"] == "begin":
                settings = run_info(entry).config or settings
            elif entry["type"] == "metrics" and isinstance(metrics, dict):
                entries.append({"step": entry.get("step"), **metrics})
            elif entry["type"] == "metrics":
                skipped += 1
        else:
            entries.append(_flat(entry))
    if is_journal:
        return Parsed("journal", {"": entries}, settings, skipped)
    if entries and all(tuple(entry)[:2] == ("step", "time") for entry in entries):
        return Parsed("prime-rl's metrics", {"": list(_prime(entries))})
    return Parsed(_lines_of(entries), {"": entries})


def _decoded(line: bytes) -> Any:
    """As `json.loads`, in a third of the time; what only that reads (half a character, say) or says is left to it."""
    try:
        return from_json(line)
    except ValueError:
        return json.loads(line.decode("utf-8", "replace").removeprefix("\ufeff"))


def read_json(content: Content) -> Parsed:
    """A notebook, a trainer's state, rows, columns, or an object that holds some.

    Raises:
        UnreadableSourceError: it is none of them.
    """
    try:
        data = json.loads(content.whole())
    except RecursionError as error:
        raise UnreadableSourceError(f"{content.path}: nested too deeply.") from error
    except ValueError as error:
        line = getattr(error, "lineno", 1)
        raise UnreadableSourceError(f"{content.path}:{line}: not JSON ({reason(error)}).") from error
    if is_notebook(data):
        return read_notebook(content.path, data)
    if isinstance(data, dict) and isinstance(data.get("log_history"), list):
        settings = {name: data[name] for name in SETTINGS if name in data}
        rows = _rows(data["log_history"])
        return Parsed("trainer_state.json" if settings else "JSON", {"": _known(rows, content)}, settings)
    runs = dict(_series(data, "", 0))
    if not runs and isinstance(data, dict) and _has_numbers(data):
        return read_json_lines(content) if len(content.first_lines) == 1 else Parsed("JSON", {"": [data]})
    named = {name: rows for name, rows in runs.items() if name.rpartition("/")[2] in HISTORIES}
    return Parsed("JSON", named or runs if runs else {"": _known(_rows(data), content)})


def _known(rows: Entries | None, content: Content) -> Entries:
    if rows is None:
        raise UnreadableSourceError(
            f"{content.path}: JSON, but neither a trainer_state.json nor a list of log entries, nor an object of lists."
        )
    return rows


def _series(data: Any, name: str, depth: int) -> Iterator[tuple[str, Entries]]:
    """Runs by the names under which they stand. Columns of unequal length: the longest ones."""
    rows = _rows(data) if data else None
    if rows is not None:
        yield name, rows
    elif isinstance(data, dict) and depth <= DEEPEST:
        for key, inner in data.items():
            yield from _series(inner, f"{name}/{key}" if name else key, depth + 1)


def _rows(data: Any) -> Entries | None:
    """A list of objects, or an object of columns: lists of numbers, or pandas' {row: number}."""
    if isinstance(data, list):
        if not all(isinstance(entry, dict) for entry in data):
            return None
        return without_empty_cells([_flat(entry) for entry in data])
    if not isinstance(data, dict) or any(
        isinstance(rows, list) and any(map(_is_nested, rows)) for rows in data.values()
    ):
        return None
    columns = {name: column for name, values in data.items() if (column := _column(values))}
    if not columns:
        return None
    length = max(map(len, columns.values()))
    whole = {name: column for name, column in columns.items() if len(column) == length}
    rows: Entries = [dict(zip(whole, values, strict=True)) for values in zip(*whole.values(), strict=True)]
    return without_empty_cells(rows) if any(map(_has_numbers, rows)) else None


def _column(data: Any) -> list[Any]:
    """The values of a column; none where it is something else."""
    if isinstance(data, dict) and list(data) == [str(row) for row in range(len(data))]:
        data = list(data.values())
    return data if isinstance(data, list) and not any(map(_is_nested, data)) else []


def _is_nested(value: Any) -> bool:
    return isinstance(value, (dict, list))


def _has_numbers(entry: Mapping[str, Any]) -> bool:
    return any(isinstance(value, (int, float)) for value in entry.values())


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _flat(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    inner = next((entry[name] for name in WITHIN if isinstance(entry.get(name), dict)), None)
    return entry if inner is None else {**inner, **entry}


def _lines_of(entries: Entries) -> str:
    """Whose lines they are, where the names say so."""
    first = entries[0] if entries else {}
    if "current_steps" in first and "total_steps" in first:
        return "LLaMA-Factory's trainer_log.jsonl"
    if "global_step/max_steps" in first:
        return "ms-swift's logging.jsonl"
    return "verl's file" if list(first)[-2:] == ["step", "data"] else "JSON lines"


def _prime(entries: Entries) -> Iterator[Mapping[str, Any]]:
    """prime-rl writes a step in several lines, one after the other; of one agent its rewards are the run's."""
    agents = {match["agent"] for entry in entries for name in entry if (match := PRIME.fullmatch(name))}
    row: dict[str, Any] = {}
    for entry in entries:
        if row and (entry["step"] != row["step"] or entry.keys() & row.keys() - {"step", "time"}):
            yield row
            row = {}
        for name, value in entry.items():
            match = PRIME.fullmatch(name) if len(agents) == 1 else None
            row[PRIME_NAMES.get(match["name"] if match else name, name)] = value
    yield row
