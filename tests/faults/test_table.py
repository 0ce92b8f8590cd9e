"""The table of docs/faults.md, with few steps and of its cheapest lines, so that what makes it stays whole."""

from __future__ import annotations

import re
from pathlib import Path

from tests.faults.bench import Line
from tests.faults.table import COLUMNS, FAULTS, ON_REQUEST, measure, shown

ROOT = Path(__file__).parents[2]
WAIT_MS = 15.0
"""The aim for the median wait of a step of the toy."""


def test_cheap_lines(tmp_path: Path) -> None:
    lines = measure(["429", "locked"], 12, tmp_path)
    assert [line.fault for line in lines] == [FAULTS[name][0] for name in ("429", "locked")]
    for line in lines:
        assert (line.steps, line.produced, line.stored, line.lost, line.doubled) == (12, 12, 12, 0, 0)
        assert line.broken == ()
        assert line.median is not None
        assert line.longest is not None
        assert 0 < line.median <= line.longest
        assert line.end is not None


def test_shown() -> None:
    lines = [Line("no fault", 5, 5, 5, 0, 0, 1.0, 12.34, 0.5), Line("SIGKILL", 5, 5, 4, 1, 0)]
    head, rule, *rows = shown(lines, markdown=True).splitlines()
    assert head.count("|") == rule.count("|") == len(COLUMNS) + 1
    assert rows == ["| no fault | 5 | 5 | 5 | 0 | 0 | 1.0 | 12.3 | 0.5 |", "| SIGKILL | 5 | 5 | 4 | 1 | 0 |  |  |  |"]
    assert "12.3" in shown(lines, markdown=False)


def test_the_page_shows_every_line() -> None:
    text = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    table = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    start = table.index(list(COLUMNS.values()))
    rows = table[start + 1 : start + 1 + len(FAULTS) - len(ON_REQUEST)]
    assert [row[0] for row in rows] == [fault for name, (fault, _) in FAULTS.items() if name not in ON_REQUEST]
    for row in rows:
        cells = dict(zip(COLUMNS, row, strict=False))
        assert cells["lost"] == cells["doubled"] == "0", row[0]
        assert cells["produced"] == cells["stored"], row[0]
        assert re.fullmatch(r"\d+", cells["steps"])
        assert float(cells.get("median", "").strip() or 0) <= WAIT_MS, row[0]


def test_the_summary_is_a_table_of_three_columns() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    section = text.split("# What it survives\n")[1].split("\n## ")[0]
    paragraphs = [block for block in section.strip().split("\n\n") if not block.startswith("|")]
    (table,) = (block.splitlines() for block in section.strip().split("\n\n") if block.startswith("|"))
    assert len(paragraphs) == 1
    assert table[0] == "| fault | what you lose | who is told |"
    assert all(line.count("|") == 4 for line in table)
    assert "(faults.md)" in section
