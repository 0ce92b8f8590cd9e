"""The table of the README, with few steps and of its cheapest lines, so that what makes it stays whole."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from tests.faults.bench import Line
from tests.faults.scenario import At
from tests.faults.table import COLUMNS, FAULTS, measure, shown


def test_cheap_lines(tmp_path: Path) -> None:
    lines = measure(["429", "full-store"], 12, tmp_path)
    assert [line.fault for line in lines] == [FAULTS[name][0] for name in ("429", "full-store")]
    for line in lines:
        assert (line.steps, line.produced, line.stored, line.drafts, line.lost, line.doubled) == (12, 12, 12, 0, 0, 0)
        assert line.stall is not None
        assert line.own is not None
        assert 0 < line.own <= line.stall
        assert line.refused, "a fault that nobody noticed is none"


def test_a_step_that_waits_for_its_device_keeps_the_aim(tmp_path: Path) -> None:
    took: list[float] = []
    with mock.patch.object(At, "on_step_begin", timed(At.on_step_begin, took)):
        (line,) = measure(["500"], 20, tmp_path, pause=0.4)
    assert len(took) == 20
    assert min(took) >= 0.4
    assert (line.steps, line.stored, line.lost, line.doubled) == (20, 20, 0, 0)
    assert line.own is not None
    assert 0 < line.own < 10


def timed(original: Callable[..., None], took: list[float]) -> Callable[..., None]:
    def call(*args: Any, **kwargs: Any) -> None:
        before = time.monotonic()
        original(*args, **kwargs)
        took.append(time.monotonic() - before)

    return call


def test_shown() -> None:
    lines = [Line("no fault", 5, 5, 5, 0, 0, 0, 0, 12.34, 1.0, 0.5), Line("SIGKILL", 5, 5, 5, 1, 0, 0)]
    head, rule, *rows = shown(lines, markdown=True).splitlines()
    assert head.count("|") == rule.count("|") == len(COLUMNS) + 1
    assert rows == [
        "| no fault | 5 | 5 | 5 | 0 | 0 | 0 | 0 | 12.3 | 1.0 | 0.5 |",
        "| SIGKILL | 5 | 5 | 5 | 1 | 0 | 0 |  |  |  |  |",
    ]
    assert "12.3" in shown(lines, markdown=False)


def test_the_readme_shows_every_line() -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    section = text.split("## What it survives\n")[1].split("\n## ")[0]
    table = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    names = list(COLUMNS)
    assert table[0] == list(COLUMNS.values())
    assert [row[0] for row in table[1:]] == [fault for fault, _ in FAULTS.values()]
    for row in table[1:]:
        cells = dict(zip(names, row, strict=False))
        assert cells["lost"] == cells["doubled"] == "0", row[0]
        assert cells["produced"] == cells["stored"], row[0]
        assert int(cells["drafts"]) <= int(row[0].startswith("SIG")), row[0]
        assert re.fullmatch(r"\d+", cells["steps"])
