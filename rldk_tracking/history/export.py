"""Every series of a run as a table: a column for each, a line for each row of the run, nothing where nothing was."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from rldk_tracking.history.past import Row


def columns_of(rows: Sequence[Row]) -> list[str]:
    """The series, in alphabetical order."""
    return sorted({key for _, row in rows for key in row})


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """A `step` column and the series; numbers are written so that they read back as they were."""
    columns = columns_of(rows)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["step", *columns])
        for step, row in rows:
            writer.writerow([step, *(repr(row[key]) if key in row else "" for key in columns)])


def write_parquet(path: Path, rows: Sequence[Row]) -> None:
    """The same as Parquet: `step` as int64, the series as float64 with nulls.

    Raises:
        ImportError: pyarrow is not installed.
    """
    try:
        import pyarrow  # type: ignore[import-untyped,unused-ignore]
        from pyarrow import parquet  # type: ignore[import-untyped,unused-ignore]
    except ImportError as error:
        raise ImportError("Parquet needs pyarrow: pip install pyarrow") from error
    columns = {"step": pyarrow.array([step for step, _ in rows], pyarrow.int64())}
    for key in columns_of(rows):
        columns[key] = pyarrow.array([row.get(key) for _, row in rows], pyarrow.float64())
    parquet.write_table(pyarrow.table(columns), path)
