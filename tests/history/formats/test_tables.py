"""Tables of text."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from rldk_tracking.history.files import read_log
from rldk_tracking.history.formats import tables
from rldk_tracking.history.formats.content import Content
from rldk_tracking.history.run_history import UnreadableSourceError
from tests.history.formats.conftest import Reads


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("separator", "point", "word"),
    [
        (",", ".", "CSV"),
        (";", ".", "table separated by ';'"),
        (";", ",", "table separated by ';'"),
        ("\t", ".", "tab-separated table"),
        ("|", ".", "table separated by '|'"),
    ],
)
def test_separators(separator: str, point: str, word: str, reads: Reads) -> None:
    rows = [("step", "reward", "note"), ("1", "0.25", "a"), ("2", "-0.5", "")]
    text = "\r\n".join(separator.join(row).replace(".", point) for row in rows)
    found = reads(text)
    assert [(entry.step, entry.row) for entry in found.entries] == [
        (1, {"rldk/reward/mean": 0.25}), (2, {"rldk/reward/mean": -0.5}),
    ]  # fmt: skip
    assert found.format == word


def test_a_data_frame_with_a_column_of_the_summary(reads: Reads) -> None:
    text = ",loss,grad_norm,step,eval_loss,train_runtime\n0,0.5,1.0,1,,\n1,,,1,0.75,\n2,nan,2.0,2,,\n3,,,2,,9.5\n"
    assert [(entry.step, entry.row) for entry in reads(text).entries] == [
        (1, {"rldk/train/loss": 0.5, "rldk/grad/norm": 1.0, "rldk/nan/gradients": 0.0}),
        (1, {"rldk/eval/loss": 0.75}),
        (2, {"rldk/nan/loss": 1.0, "rldk/grad/norm": 2.0, "rldk/nan/gradients": 0.0}),
    ]


def test_a_history_with_rows_of_timings(reads: Reads) -> None:
    """W&B's `run.history()`: a row for each call of `log`, NaN for what it did not log."""
    text = "_step,train/reward,train/kl,train/loss,profiling/seconds\n0,nan,nan,nan,2.0\n1,0.5,0.25,nan,nan\n"
    assert [entry.row for entry in reads(text).entries] == [
        {"rldk/reward/mean": 0.5, "rldk/kl/ref_k3": 0.25, "rldk/nan/loss": 1.0}
    ]


def test_runs_of_a_wandb_panel(reads: Reads, tmp_path: Path) -> None:
    columns = [f"{run} - train/reward{end}" for run in ("my - run", "other") for end in ("", "__MIN", "__MAX")]
    head = ",".join(f'"{name}"' for name in ("Step", *columns))
    text = f'{head}\n"1","0.25","0","9","0.5","0","9"\n"2","0.75","0","9","","",""\n'
    found = reads(text)
    assert set(tables.read_table(Content(tmp_path / "some.thing")).runs["other"][0]) == {"Step", "train/reward"}
    assert found.format == "W&B's panel export"
    assert [(entry.step, entry.row) for entry in found.entries] == [
        (1, {"rldk/reward/mean": 0.25}), (2, {"rldk/reward/mean": 0.75}),
    ]  # fmt: skip
    assert found.notes[0].startswith("reading run my - run of 2 in the file; also found other; '")
    assert [entry.row for entry in reads(text, "other").entries] == [{"rldk/reward/mean": 0.5}]


def test_a_long_cell_is_read_and_the_interpreters_limit_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = csv.field_size_limit()
    path = written(tmp_path / "x.csv", "step,reward,completion\n1,0.5," + "a" * 200_000 + "\n")
    assert [len(entry["completion"]) for entry in read_log(path).entries] == [200_000]
    monkeypatch.setattr(tables, "LONGEST_CELL_CHARACTERS", 1000)
    with pytest.raises(UnreadableSourceError, match=r"x.csv:1: not CSV .field larger than"):
        read_log(path)
    assert csv.field_size_limit() == before


def test_csv_of_a_spreadsheet(tmp_path: Path) -> None:
    path = written(tmp_path / "x.csv", b"\xef\xbb\xbfstep,reward\r\n1,0.5\r\n2,0.6,more,cells\r\n3\r\n")
    assert [(entry["step"], entry.get("reward")) for entry in read_log(path).entries] == [
        ("1", "0.5"), ("2", "0.6"), ("3", None),
    ]  # fmt: skip
