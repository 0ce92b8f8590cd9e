"""Log files, and what people and machines make of them: nothing but an error of its own kind comes out."""

from __future__ import annotations

import gzip
import json
import os
import random
from pathlib import Path

import pytest

from rldk_tracking.history.files import read_log
from rldk_tracking.history.formats import content
from rldk_tracking.history.reading import read
from rldk_tracking.history.run_history import UnreadableSourceError


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("x.jsonl", "[" * 100_000 + "\n", "x.jsonl: nested too deeply"),
        ("x.jsonl", '{"a": 1}\n' + '{"a": ' * 50_000 + "\n", "x.jsonl:2: nested too deeply"),
        ("x.json", "[" * 100_000, "x.json: nested too deeply"),
        ("x.json", b"\xff\xfe\x00", "x.json: in no known format. It begins with"),
        ("x.json", "9" * 5000, "x.json: "),
        ("x.json", '{"log_history": "none"}', "neither a trainer_state"),
        ("x.json", "[1, 2]", "neither a trainer_state"),
        ("x.jsonl", '{"step": ' + "9" * 5000 + "}\n", "x.jsonl:1: not JSON"),
        ("x.jsonl", "\x00\x00\x00\n", "x.jsonl: in no known format"),
        ("x.csv", b"step,reward\n1,\xff\n", "not CSV .not UTF-8"),
        ("x.log", "Loading weights\n{'a': [}\n", "begins with 'Loading weights'.* no line like"),
        ("run-1.wandb", "anything", "W&B's or TensorBoard's file"),
        ("x.parquet", "PAR1", "Parquet is read from the folder"),
        ("x.zip", b"PK\x03\x04", "a zip archive; unpack it first"),
        ("mlflow.db", "SQLite format 3", "MLFLOW_TRACKING_URI=sqlite:///.*mlflow.db"),
    ],
)
def test_what_cannot_be_read_says_which_file_and_why(tmp_path: Path, name: str, content: str | bytes, why: str) -> None:
    with pytest.raises(UnreadableSourceError, match=why):
        read_log(written(tmp_path / name, content))


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    (tmp_path / "endless.json").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "folder.csv").mkdir()
    for path in tmp_path.iterdir():
        with pytest.raises(UnreadableSourceError, match=f"{path.name}: not a regular file"):
            read_log(path)
    with pytest.raises(UnreadableSourceError, match="no such file"):
        read_log(tmp_path / "nothing.json")


def test_sizes_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "LARGEST_JSON_BYTES", 10)
    monkeypatch.setattr(content, "LONGEST_LINE_BYTES", 10)
    assert read_log(written(tmp_path / "x.json", "[{}]     ")).entries == [{}]
    with pytest.raises(UnreadableSourceError, match="x.json: larger than"):
        read_log(written(tmp_path / "x.json", "[{}]       "))
    assert read_log(written(tmp_path / "x.jsonl", '{"a": 1}\n' * 3)).entries == [{"a": 1}] * 3
    with pytest.raises(UnreadableSourceError, match="x.jsonl:2: longer than"):
        read_log(written(tmp_path / "x.jsonl", '{"a": 1}\n{"a": 1234}\n'))


def test_a_journal_gives_its_rows_and_settings_and_counts_what_holds_none(tmp_path: Path) -> None:
    records = [
        {"type": "begin", "time": 1.0, "run": {"config": {"beta": 0.1}}},
        {"type": "metrics", "time": 1.0, "step": 1, "metrics": {"rldk/reward/mean": 0.5}},
        {"type": "metrics", "time": 1.0, "metrics": {"rldk/reward/mean": 0.6}},
        {"type": "metrics", "time": 1.0, "step": 3, "metrics": [1, 2]},
        {"type": "status", "time": 1.0, "step": 3, "status": "finished"},
    ]
    text = "".join(json.dumps(record) + "\n" for record in records) + '{"type": "metr\n\x00\n'
    log = read_log(written(tmp_path / "run.jsonl", text))
    assert [entry["rldk/reward/mean"] for entry in log.entries] == [0.5, 0.6]
    assert log.settings == {"beta": 0.1}
    assert log.skipped == 3


def test_scalars_come_back_by_step_and_a_later_file_holds(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="reading event files needs tensorboard")
    writer = pytest.importorskip("torch.utils.tensorboard").SummaryWriter
    with writer(tmp_path / "runs") as first:
        for step in range(5):
            first.add_scalar("train/reward", float(step), step)
            first.add_scalar("train/kl", 0.1, step)
    with writer(tmp_path / "runs", filename_suffix=".resumed") as second:
        for step in range(3, 8):
            second.add_scalar("train/reward", 10.0 + step, step, walltime=4e9)
    entries = read(tmp_path).entries
    assert [entry.step for entry in entries] == list(range(8))
    assert [entry.row["rldk/reward/mean"] for entry in entries] == [0, 1, 2, 13, 14, 15, 16, 17]
    assert entries[2].row["rldk/kl/ref_k3"] == pytest.approx(0.1)


def test_our_own_series_and_the_last_step_come_back(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="reading event files needs tensorboard")
    writer = pytest.importorskip("torch.utils.tensorboard").SummaryWriter
    with writer(tmp_path / "runs") as events:
        for step in (1, 2, 3):
            events.add_scalar("train/rldk/reward/mean", step / 4, step)
            events.add_scalar("train/reward", 9.0, step)
        events.add_scalar("train/train_runtime", 5.0, 3)
        events.add_scalar("train/train_loss", 5.0, 3)
    found = [(entry.step, entry.row) for entry in read(tmp_path).entries]
    assert found == [(step, {"rldk/reward/mean": step / 4}) for step in (1, 2, 3)]


def test_a_file_of_something_else(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="reading event files needs tensorboard")
    (tmp_path / "events.out.tfevents.1").write_bytes(b"\x00garbage\xff" * 100)
    with pytest.raises(UnreadableSourceError, match="0 entries"):
        read(tmp_path)


def test_numbers_that_a_logger_writes_together(tmp_path: Path) -> None:
    """verl's file."""
    path = written(tmp_path / "verl.jsonl", '{"step": 7, "data": {"actor/lr": 1e-06, "critic/score/mean": 0.5}}\n')
    assert [(entry.step, entry.row) for entry in read(path).entries] == [
        (7, {"rldk/update/learning_rate": 1e-06, "rldk/reward/mean": 0.5})
    ]


SAMPLES = (
    b'{"step": 1, "reward": 0.5}\n{"step": 2, "reward": 0.5}\n',
    b'{"history": {"reward": [0.5, 0.25]}, "cells": [{"outputs": [1]}], "nbformat": 4}',
    b'{"cells": [{"outputs": [{"data": {"text/html": "<table><tr><th>Step<th>kl<tr><td>1<td>2"}}]}],"nbformat":4}',
    b"step;reward\n1;0,5\n2;'x\n",
    b"step:1 - reward:0.5 - x:np.float64(1)\n{'reward': 0.5, 'epoch': [1, (2,)]}\nStep 1 | Reward 0.5\n",
    b"===== Step 1/2 =====\nTraining Results:\n  \xe2\x80\xa2 Loss: 0.5\n1/2 [00:01<00:01, 1it/s, loss=0.5]\r",
    b":W&B\xe1\xbe\x00" + b"\x00\x00\x00\x00\x04\x00\x01abcd",
    gzip.compress(b'{"step": 1, "reward": 0.5}\n' * 20),
)


@pytest.mark.parametrize("sample", range(len(SAMPLES)))
def test_any_bytes_are_rows_or_an_unreadable_source(sample: int, tmp_path: Path) -> None:
    """Pieces of files turned, doubled, cut and replaced: 300 of each."""
    if SAMPLES[sample].startswith(b":W&B"):
        pytest.importorskip("wandb", reason="reads W&B's own file")
    draw = random.Random(sample)
    read_ones = 0
    for _ in range(300):
        data = bytearray(SAMPLES[sample])
        for _ in range(draw.randrange(1, 6)):
            at, length = draw.randrange(len(data) + 1), draw.randrange(12)
            new = draw.choice((b"", draw.randbytes(length), bytes(data[:length]), b"{[\"'<", b"NaN", b"\xff\x00\r\n"))
            data[at : at + draw.choice((0, length))] = new
        path = written(tmp_path / "some.thing", bytes(data))
        try:
            read(path)
        except UnreadableSourceError as error:
            assert str(path) in str(error)
        else:
            read_ones += 1
    assert read_ones or sample == 6


@pytest.mark.slow
def test_a_run_that_was_never_sent(tmp_path: Path) -> None:
    wandb = pytest.importorskip("wandb")
    with wandb.init(mode="offline", dir=tmp_path, project="p") as run:
        run.define_metric("train/global_step")
        for step in range(1, 4):
            run.log({"train/global_step": step, "train/reward": 0.25 * step, "train/table": wandb.Table(["a"], [[1]])})
    wandb.teardown()  # which waits until the file is whole
    (folder,) = tmp_path.glob("wandb/offline-run-*")
    assert [(entry.step, entry.row) for entry in read(folder).entries] == [
        (step, {"rldk/reward/mean": 0.25 * step}) for step in (1, 2, 3)
    ]
