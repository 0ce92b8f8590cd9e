"""Rows of a past log that are one run's training, and their steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rldk_tracking.history.reading import read
from rldk_tracking.history.rows import runs_in
from rldk_tracking.history.run_history import history


def rewards(steps: list[int], **more: Any) -> list[dict[str, Any]]:
    return [{"step": step, "reward": step / 10, **more} for step in steps]


@pytest.mark.parametrize(
    ("entries", "runs"),
    [
        (rewards([1, 2, 3]), [("", 3)]),
        (rewards([1, 2], seed=1) + rewards([1, 2, 3], seed=2), [("seed=1", 2), ("seed=2", 3)]),
        ([{"step": at // 2, "seed": at % 2} for at in range(4)], [("seed=0", 2), ("seed=1", 2)]),
        (rewards([1, 2], seed=1) + rewards([3, 4], seed=2), [("", 4)]),  # a seed of the environment
        ([{"run": name, "reward": 1.0} for name in "aabbb"], [("run=a", 2), ("run=b", 3)]),
        ([{"run": name, "reward": 1.0} for name in "abab"], [("", 4)]),
        ([{"name": name, "step": step} for step in (1, 2) for name in ("train", "eval")], [("", 4)]),
        ([{"name": f"sample {place}", "step": 1} for place in range(4)], [("", 4)]),
        ([], [("", 0)]),
    ],
)
def test_several_runs_in_one_file(entries: list[dict[str, Any]], runs: list[tuple[str, int]]) -> None:
    found = runs_in(entries)
    assert [(name, len(rows)) for name, rows in found] == runs
    assert sorted(id(row) for _, rows in found for row in rows) == sorted(map(id, entries)), "each row in one run"


def test_the_longest_run_is_read_and_another_can_be_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    entries = [*rewards([1, 2], seed=1), *rewards([1, 2, 3], seed=2), *rewards([1, 2], seed=3)]
    path.write_text("\n".join(map(json.dumps, entries)))
    past = read(path)
    assert [entry.step for entry in past.entries] == [1, 2, 3]
    assert past.notes[0].startswith("reading run seed=2 of 3 in the file; also found seed=1, seed=3")
    assert len(read(f"{path}#seed=3").entries) == 2


def test_steps_that_are_not_what_they_should_be_are_said() -> None:
    assert history("x", [{"reward": 1.0}, {"reward": 2.0}]).notes == ("no step column: rows are counted",)
    (note,) = history("x", rewards([10, 20, 30, 20, 30])).notes
    assert note == "the step falls back, first from 30 to 20 in row 4: a training resumed?"
    within = history("x", [row | {"epoch": epoch} for epoch in (1, 2) for row in rewards([0, 1])])
    assert within.notes == ("the step starts again, as in each epoch: rows are counted",)
    assert [entry.step for entry in within.entries] == [0, 1, 2, 3]
    assert history("x", rewards([1, 2, 2, 3])).notes == ("1 row has the step of the row before",)
    assert history("x", [{"step": 1, "loss": 0.5}, {"step": 1, "eval_loss": 0.5}]).notes == ()
    assert [entry.step for entry in history("x", [{"Train Step": 7, "reward": 1.0}]).entries] == [7]


def test_rows_of_an_evaluation_do_not_join_the_training() -> None:
    entries = [{"step": 1, "split": "train", "loss": 0.5}, {"step": 1, "split": "Val", "loss": 0.7, "entropy": 2.0}]
    assert [entry.row for entry in history("x", entries).entries] == [{"rldk/train/loss": 0.5}, {"rldk/eval/loss": 0.7}]


def test_rows_of_a_configuration_are_left_out() -> None:
    told = {"type": "config", "learning_rate": 0.1, "loss": 9.0}
    seen = {"learning_rate": 0.1, "batch_size": 8, "model": "small"}
    past = history("x", [told, seen, {"step": 1, "loss": 0.5}])
    assert [entry.row for entry in past.entries] == [{"rldk/train/loss": 0.5}]
    assert past.notes == ("2 rows are of the configuration, and not read",)
    sweep = {"learning_rate": 0.1, "batch_size": 8, "seed": 1, "loss": 0.5}
    assert len(history("x", [sweep, sweep]).entries) == 2, "settings beside the numbers of a training"


def test_series_of_ours_are_read_as_they_stand() -> None:
    past = history("x", [{"step": step, "rldk/reward/mean": 1.0, "mine": 2.0} for step in (1, 2, 1, 2)])
    assert [entry.step for entry in past.entries] == [1, 2, 1, 2] and past.notes == () and past.ignored == ()
