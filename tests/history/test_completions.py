"""TRL's completions, as parquet files."""

from __future__ import annotations

import pytest

from rldk_tracking.history.completions import summary
from rldk_tracking.history.reading import read

ROWS = [
    {"step": 1, "prompt": "a", "completion": "x", "correct": 1.0, "format": 0.5, "advantage": 1.0},
    {"step": 1, "prompt": "a", "completion": "y", "correct": 0.0, "format": 0.5, "advantage": -1.0},
    {"step": 1, "prompt": "b", "completion": "x", "correct": 1.0, "format": None, "advantage": 0.0},
    {"step": 1, "prompt": "b", "completion": "z", "correct": 1.0, "format": None, "advantage": 0.0},
]


def test_summary() -> None:
    found = summary(ROWS)
    assert found["rldk/reward/mean"] == pytest.approx((1.5 + 0.5 + 1 + 1) / 4)
    assert found["rldk/reward/group_tied_fraction"] == 0.5
    assert found["rldk/reward/group_std_mean"] == pytest.approx(0.5**0.5 / 2)
    assert found["rldk/reward/function/format/mean"] == 0.5
    assert found["rldk/diversity/unique_fraction"] == 0.75
    assert (found["rldk/reward/min"], found["rldk/reward/max"]) == (0.5, 1.5)


def test_a_step_without_scores_has_no_reward() -> None:
    found = summary([{"prompt": "a", "completion": "x", "correct": None, "advantage": 0.0}])
    assert found == {"rldk/diversity/unique_fraction": 1.0}


def test_a_folder_of_files(tmp_path) -> None:
    pa = pytest.importorskip("pyarrow", reason="completions are parquet files")
    from pyarrow import parquet

    (tmp_path / "completions").mkdir()
    for step in (2, 1):
        table = pa.Table.from_pylist([{**row, "step": step} for row in ROWS])
        parquet.write_table(table, tmp_path / "completions" / f"completions_{step:05d}.parquet")
    entries = read(tmp_path).entries
    assert [entry.step for entry in entries] == [1, 2]
    assert entries[0].row == {key: pytest.approx(value) for key, value in summary(ROWS).items()}
