"""Log files as entries. What a file is, its content says; how it is named does not count.

Whatever a file holds, an error says which file and why.

Only regular files are opened: a pipe would be waited for, and a device such as `/dev/zero` has no end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rldk_tracking.history.formats.binary import is_tensorboard, is_wandb, read_tensorboard, read_wandb
from rldk_tracking.history.formats.content import Content, Entries, Parsed
from rldk_tracking.history.formats.json_text import is_json, is_json_lines, read_json, read_json_lines
from rldk_tracking.history.formats.printed import EXPECTED, read_printed
from rldk_tracking.history.formats.runs import chosen, settings_of, told_apart, with_step
from rldk_tracking.history.formats.tables import is_table, read_table
from rldk_tracking.history.run_history import UnreadableSourceError

FORMATS: tuple[tuple[Callable[[Content], bool], Callable[[Content], Parsed]], ...] = (
    (is_wandb, read_wandb),
    (is_tensorboard, read_tensorboard),
    (is_json_lines, read_json_lines),
    (is_json, read_json),
    (is_table, read_table),
)
"""How a format is recognised, and its reader; the first that fits. What fits none may be a console's log."""
ELSEWHERE = {
    b"SQLite format 3": "an MLflow store is read run by run: set MLFLOW_TRACKING_URI=sqlite:///{path} and name "
    "mlflow:RUN_ID or mlflow:experiment/NAME.",
    b"PAR1": "Parquet is read from the folder in which TRL wrote its completions.",
    b"PK\x03\x04": "a zip archive; unpack it first.",
}
"""What files begin with that cannot be read, and what to do with them."""


@dataclass(frozen=True)
class Log:
    """What a file holds.

    Attributes:
        entries: in order, those of one run.
        settings: what it says of the run's configuration.
        skipped: lines of a journal that hold no record.
        format: what the file was read as, for people.
        run: name of the run in the file, where there are several.
        others: names of the other runs in it.
    """

    entries: Entries
    settings: Mapping[str, Any]
    skipped: int = 0
    format: str = ""
    run: str = ""
    others: tuple[str, ...] = ()


def read_log(path: Path, run: str = "") -> Log:
    """The entries of a file.

    Args:
        path: the file.
        run: which of the runs in it; by default the one with the most entries.

    Raises:
        UnreadableSourceError: it is no regular file, or its content is in no known format, or there is no such run.
        OSError: it cannot be opened.
        ImportError: a package that it takes is not installed.
    """
    if not path.exists():
        raise UnreadableSourceError(f"{path}: no such file or folder.")
    if not path.is_file():
        raise UnreadableSourceError(f"{path}: not a regular file.")
    parsed = _parsed(Content(path))
    runs = told_apart({name: with_step(entries) for name, entries in parsed.runs.items()})
    name = chosen(runs, run, path)
    entries = runs.get(name, [])
    others = tuple(other for other in runs if other != name)
    settings = {**settings_of(entries), **parsed.settings}
    return Log(entries, settings, parsed.skipped, parsed.format, name if others else "", others)


def _parsed(content: Content) -> Parsed:
    head = content.head
    for begin, advice in ELSEWHERE.items():
        if head.startswith(begin):
            raise UnreadableSourceError(f"{content.path}: {advice.format(path=content.path)}")
    if not content.first_lines:
        return Parsed("empty file", {"": []})
    reader = next((read for fits, read in FORMATS if fits(content)), read_printed)
    try:
        return reader(content)
    except UnreadableSourceError as error:
        if reader is not read_printed:
            raise
        first = content.first_lines[0]
        if first.lstrip().startswith(b"{"):
            return read_json(content)  # whose error says what is wrong with it
        opening = first[:60].decode("utf-8", "replace")
        raise UnreadableSourceError(
            f"{content.path}: in no known format. It begins with {opening!r}, which is no JSON, JSON lines, notebook, "
            f"table under a line of names, or W&B's or TensorBoard's file; and there is no line like {EXPECTED}."
        ) from error
