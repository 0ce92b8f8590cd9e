"""Tables read back as what was written."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from rldk_tracking.history.export import write_csv, write_parquet

ROWS = [
    (1, {"rldk/a": 0.1 + 0.2, "rldk/b": 1e-300}),
    (2, {"rldk/a": -1.5}),
    (2, {"rldk/b": 3.0, 'rldk/reward/function/x,"y"/mean': 2.0}),
]


def test_csv_holds_every_row_and_number(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", ROWS)
    with (tmp_path / "t.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    back = [
        (int(line.pop("step")), {key: float(value) for key, value in line.items() if value != ""}) for line in lines
    ]
    assert back == ROWS


def test_parquet_holds_every_row_and_number(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    write_parquet(tmp_path / "t.parquet", ROWS)
    table = parquet.read_table(tmp_path / "t.parquet")
    assert str(table.schema.field("step").type) == "int64"
    back = [
        (line.pop("step"), {key: value for key, value in line.items() if value is not None})
        for line in table.to_pylist()
    ]
    assert back == ROWS


def test_a_run_without_rows_is_an_empty_table(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", [])
    assert (tmp_path / "t.csv").read_text().strip() == "step"
