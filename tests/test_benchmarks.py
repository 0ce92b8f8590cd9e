"""Each benchmark runs, at its smallest: a command that nobody calls between two measurements stops working unnoticed.

Those that hold limits of their own have tests elsewhere: columns, leak, ranks.
"""

from __future__ import annotations

import csv
import importlib
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parent / "benchmarks"
ELSEWHERE = {
    "columns": "metrics/test_columns_cost.py",
    "leak": "faults/test_leak.py",
    "ranks": "test_ranks.py",
}
PARTS = {"faults", "healthy", "interventions", "strangers", "synthetic", "training"}
"""What `detection` is made of."""
HERE = {"checkpoint", "detection", "files_entered", "optimizer_probe", "overhead", "replay"}
Load = Callable[[str], ModuleType]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """A benchmark as a module, with its neighbours as it imports them."""
    monkeypatch.syspath_prepend(str(FOLDER))
    path, before = list(sys.path), set(sys.modules)
    with warnings.catch_warnings():
        yield importlib.import_module
    sys.path[:] = path
    for name in {*HERE, *PARTS} & (set(sys.modules) - before):
        del sys.modules[name]
    logging.disable(logging.NOTSET)


def called(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark", *words])


def test_every_benchmark_is_run_by_a_test() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} == {*HERE, *PARTS, *ELSEWHERE}
    for name, place in ELSEWHERE.items():
        assert "benchmarks" in (FOLDER.parent / place).read_text() and name in (FOLDER.parent / place).read_text()


def test_overhead(load: Load) -> None:
    without, watched = load("overhead").train_in_turn("toy", 1, False)
    for found in (without, watched):
        assert len(found["wall"]) == len(found["processor"]) == 1 and found["wall"][0] > 0


def test_files_entered(load: Load, tmp_path: Path) -> None:
    ((calls,), threads) = load("files_entered").count(tmp_path, 1)
    assert len(calls) <= 58, sorted(calls)
    assert calls["run.py"] > 0 and not any(name.startswith("demo") for name in calls)
    assert threads <= {"rldk-stacks"}


def test_optimizer_probe(load: Load, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    called(
        monkeypatch,
        *["--words", "64", "--layers", "1", "--width", "64", "--steps", "1", "--rows", "2", "--tokens", "8"],
    )
    assert load("optimizer_probe").main() in (0, 1), "goals are for a model of another size"
    assert "standard" in capsys.readouterr().out


def test_checkpoint(load: Load, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    module: Any = load("checkpoint")
    monkeypatch.setitem(module.SHAPES, "124M", (64, 32, 1))
    called(monkeypatch, *["--sizes", "124M", "--dtypes", "float32", "--rounds", "1"])
    assert module.main() in (0, 1)
    said = capsys.readouterr().out
    assert "| 124M float32 | " in said and "on_save: median" in said


def test_detection(load: Load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module: Any = load("detection")
    monkeypatch.setattr(load("training"), "STEPS", 2)
    name = next(iter(load("healthy").HEALTHY["grpo"]))
    measured = module.judge_faults(["grpo"], 1, 1, tmp_path, [name], None)
    assert (measured.healthy, measured.critical, measured.steps) == (1, 0, 2)
    assert "1" in module.described(measured)


def test_detection_in_other_peoples_logs(
    load: Load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"step": step, "reward": 0.5, "kl": 0.01 * step} for step in range(1, 40)]
    with (tmp_path / "a.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    head = ["file", "label", "onset_row", "confidence", "source_repo"]
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([head, ["a.csv", "healthy", "", "high", "someone/runs"]])
    called(monkeypatch, "logs", str(tmp_path))
    strangers = load("strangers")
    load("detection").main()
    out = capsys.readouterr().out
    part = "in fold" if strangers.fold_of("someone/runs") in strangers.LOOKED_AT else "**out of fold**"
    assert f"| rldk-tracking | {part}, 1 | of high confidence | none | none | 0 of 1 | 0 |" in out


def test_replay(
    load: Load, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "log.csv").write_text("step,reward\n1,0.5\n2,0.6\n")
    called(monkeypatch, str(tmp_path), "--rows", "30", "--repeats", "1")
    load("replay").main()
    logs, made_up = capsys.readouterr().out.splitlines()
    assert logs.startswith("2 rows of 1 logs: reading ") and made_up.startswith("made up: 30 rows of 1 logs: reading ")
