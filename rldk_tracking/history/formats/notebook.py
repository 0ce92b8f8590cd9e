"""Jupyter notebooks: tables and printed rows in the outputs of their cells."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from rldk_tracking.history.formats.content import Entries, Parsed
from rldk_tracking.history.formats.printed import printed_rows
from rldk_tracking.history.run_history import UnreadableSourceError
from rldk_tracking.sources.logs import number

COUNTERS = ("step", "epoch", "global_step")
"""The first column of a table of training, as transformers draws it."""


class _Tables(HTMLParser):
    """Collects the cells of every table, by rows."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self._is_cell = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._is_cell = self._is_cell and tag not in ("table", "tr")
        if tag == "table":
            self.tables.append([])
        elif tag == "tr" and self.tables:
            self.tables[-1].append([])
        elif tag in ("td", "th") and self.tables and self.tables[-1]:
            self.tables[-1][-1].append("")
            self._is_cell = True

    def handle_endtag(self, tag: str) -> None:
        self._is_cell = self._is_cell and tag not in ("td", "th", "tr", "table")

    def handle_data(self, data: str) -> None:
        if self._is_cell:
            self.tables[-1][-1][-1] += data


def is_notebook(data: Any) -> bool:
    """Whether a JSON value is one."""
    return isinstance(data, dict) and isinstance(data.get("cells"), list) and "nbformat" in data


def read_notebook(path: Path, data: dict[str, Any]) -> Parsed:
    """Each table of training and each cell's printed rows, as runs that are named after the cell: "cell7", "cell7-2".

    Raises:
        UnreadableSourceError: there are none.
    """
    runs: dict[str, Entries] = {}
    for place, cell in enumerate(data["cells"], 1):
        outputs = cell.get("outputs") if isinstance(cell, dict) else None
        found = list(_runs(outputs)) if isinstance(outputs, list) else []
        runs |= {f"cell{place}" if count == 1 else f"cell{place}-{count}": one for count, one in enumerate(found, 1)}
    if not runs:
        raise UnreadableSourceError(
            f"{path}: a notebook without a table of training and without printed rows in its outputs; was it saved "
            "after the training?"
        )
    return Parsed("notebook", runs)


def tables_of(html: str) -> Iterator[Entries]:
    """Tables whose first column counts steps or epochs, by rows; cells without a number are left out.

    >>> list(tables_of("<table><tr><th>Step</th><th>Training Loss</th></tr><tr><td>1</td><td>0.5</td></tr></table>"))
    [[{'Step': '1', 'Training Loss': '0.5'}]]
    """
    parser = _Tables()
    try:
        parser.feed(html)
    except AssertionError:  # older versions of Python, on markup that there is not
        return
    for head, *lines in filter(None, parser.tables):
        names = [name.strip() for name in head]
        if len(names) < 2 or names[0].lower() not in COUNTERS:
            continue
        cells = [{name: cell.strip() for name, cell in zip(names, line, strict=False)} for line in lines]
        rows = [{name: cell for name, cell in row.items() if number(cell) is not None} for row in cells]
        if rows := [row for row in rows if names[0] in row]:
            yield rows  # type: ignore[misc]


def _runs(outputs: list[Any]) -> Iterator[Entries]:
    printed: list[str] = []
    for output in outputs:
        if not isinstance(output, dict):
            continue
        data = output.get("data")
        data = data if isinstance(data, dict) else {}
        yield from tables_of(_text(data.get("text/html")))
        printed.append(_text(output.get("text")) or _text(data.get("text/plain")))
    _, rows = printed_rows("".join(printed).splitlines(keepends=True))
    if rows:
        yield rows


def _text(source: Any) -> str:
    """A notebook's text: one, or a list of lines."""
    if isinstance(source, list):
        return "".join(line for line in source if isinstance(line, str))
    return source if isinstance(source, str) else ""
