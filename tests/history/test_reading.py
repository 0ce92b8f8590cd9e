"""What runs leave behind, as rows."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from rldk_tracking.history.past import load
from rldk_tracking.history.reading import read
from rldk_tracking.history.run_history import UnreadableSourceError

LOGS = [
    {"loss": 0.1, "grad_norm": 1.5, "reward": 0.2, "epoch": 0.1, "step": 5},
    {"eval_loss": 0.3, "epoch": 0.1, "step": 5},
    {"loss": 0.2, "grad_norm": "nan", "reward": "0.3", "epoch": 0.2, "step": 10},
    {"train_runtime": 12.0, "train_loss": 0.15, "step": 10},
]


def write(path, text: str):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_trainer_state(tmp_path) -> None:
    state = write(
        tmp_path / "trainer_state.json", json.dumps({"log_history": LOGS, "max_steps": 10, "best_metric": None})
    )
    past = read(state)
    assert [(entry.index, entry.step) for entry in past.entries] == [(0, 5), (1, 5), (2, 10)]
    assert past.entries[0].row["rldk/reward/mean"] == 0.2
    assert past.entries[2].row["rldk/nan/gradients"] == 1.0 and "rldk/grad/norm" not in past.entries[2].row
    assert past.settings == {"max_steps": 10}


def test_a_folder_gives_its_latest_state(tmp_path) -> None:
    for step in (5, 20, 100):
        state = {"log_history": [{"reward": float(step), "step": step}]}
        write(tmp_path / f"checkpoint-{step}" / "trainer_state.json", json.dumps(state))
    assert read(tmp_path).entries[0].row["rldk/reward/mean"] == 100.0
    write(tmp_path / "trainer_state.json", json.dumps({"log_history": [{"reward": 7.0}]}))
    assert read(tmp_path).entries[0].row["rldk/reward/mean"] == 7.0


def test_json_lines_and_csv_are_the_same(tmp_path) -> None:
    lines = write(
        tmp_path / "run.jsonl", "\n".join(json.dumps({"step": t, "reward": t / 2}) for t in range(5)) + "\n\n"
    )
    table = write(tmp_path / "run.csv", "step,reward,note\n" + "".join(f"{t},{t / 2},x\n" for t in range(5)))
    listed = write(tmp_path / "run.json", json.dumps([{"step": t, "reward": t / 2} for t in range(5)]))
    rows = [[(entry.step, entry.row) for entry in read(path).entries] for path in (lines, table, listed)]
    assert rows[0] == rows[1] == rows[2] and rows[0][4] == (4, {"rldk/reward/mean": 2.0})


def test_our_own_journal(tmp_path) -> None:
    from rldk_tracking.trackers.jsonl import JsonlTracker

    tracker = JsonlTracker(tmp_path / "rldk" / "run.jsonl")
    for step in range(3):
        tracker.log({"rldk/reward/mean": step / 2, "rldk/custom/thing": 1.0}, step)
    tracker.status("finished", {}, 2)
    tracker.close()
    expected = [(step, {"rldk/reward/mean": step / 2, "rldk/custom/thing": 1.0}) for step in range(3)]
    assert [(entry.step, entry.row) for entry in read(tmp_path / "rldk" / "run.jsonl").entries] == expected
    assert [(entry.step, entry.row) for entry in read(tmp_path).entries] == expected


def test_a_file_that_is_being_written_is_read_up_to_its_last_whole_line(tmp_path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1, "kl": 0.5}\n{"step": 2, "kl": 0.5}\n{"step": 3, "k')
    assert [entry.step for entry in read(path).entries] == [1, 2]
    path.write_text('{"step": 1, "kl": 0.5}\n{"step": 2, "k\n{"step": 3, "kl": 0.5}\n')
    with pytest.raises(UnreadableSourceError, match="log.jsonl:2: not JSON"):
        read(path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.jsonl", "{not json}\n", "x.jsonl:1: not JSON"),
        ("x.jsonl", "[1, 2]\n", "neither a trainer_state"),
        ("x.jsonl", '{"a": 1}\n{"a": 1}[1, 2]\n', "x.jsonl:2: not JSON"),
        ("x.json", "{", "not JSON"),
        ("x.json", '{"a": 1}', "1 entries, and no name in them"),
        ("x.jsonl", "", "0 entries.*nothing"),
        ("x.md", "hello", "in no known format"),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path, name: str, text: str, message: str) -> None:
    with pytest.raises(UnreadableSourceError, match=message):
        read(write(tmp_path / name, text))


def test_an_empty_folder(tmp_path) -> None:
    with pytest.raises(UnreadableSourceError, match="no trainer_state"):
        read(tmp_path)


def test_the_journal_of_a_training_with_a_line_that_a_kill_tore(tmp_path: Path) -> None:
    from tests.journal.conftest import row, started

    written = started(tmp_path / "_rldk")
    for step in (1, 2, 3):
        written.row(step, row(step))
        if step == 2:
            written._file.append(b'{"type": "metr\n')
    written.end("finished", 3)
    written.close()
    assert [entry.step for entry in read(tmp_path).entries] == [1, 2, 3]
    assert [entry.step for entry in read(written.path).entries] == [1, 2, 3]


KINDS = ["journal", "lines", "tensorboard", "state", "completions"]


def left_behind(folder: Path, kind: str) -> str:
    """Leave what a training does; returns how it is named."""
    if kind == "journal":
        record = {"type": "metrics", "time": 1.0, "step": 1, "metrics": {"rldk/reward/mean": 1.0}}
        write(folder / "_rldk" / "run.jsonl", json.dumps(record) + "\n")
        return "_rldk/run.jsonl"
    if kind == "lines":
        write(folder / "log.jsonl", '{"reward": 2.0, "step": 1}\n')
        return "log.jsonl"
    if kind == "tensorboard":
        writer = pytest.importorskip("torch.utils.tensorboard").SummaryWriter
        with writer(folder / "runs") as events:
            events.add_scalar("train/reward", 3.0, 1)
        return "TensorBoard files"
    if kind == "state":
        write(folder / "checkpoint-4" / "trainer_state.json", json.dumps({"log_history": [{"reward": 4.0, "step": 4}]}))
        return "checkpoint-4/trainer_state.json"
    pandas = pytest.importorskip("pandas", reason="writes completions as TRL does")
    (folder / "completions").mkdir()
    table = {"step": [1], "prompt": ["a"], "completion": ["b"], "r": [5.0], "advantage": [0.0]}
    pandas.DataFrame(table).to_parquet(folder / "completions" / "completions_1.parquet")
    return "completions"


@pytest.mark.parametrize("first", range(len(KINDS)))
def test_a_folder_is_read_in_one_order_and_the_choice_is_said(tmp_path: Path, first: int) -> None:
    chosen, *others = [left_behind(tmp_path, kind) for kind in KINDS[first:]]
    also = f"; also found {', '.join(others)}" if others else ""
    past, report = read(tmp_path), load(tmp_path)
    assert past.entries[0].row["rldk/reward/mean"] == first + 1.0
    assert report.rows[0][1]["rldk/reward/mean"] == first + 1.0
    assert past.notes == report.notes == (f"reading {chosen}{also}",)


def test_what_cannot_be_read_leaves_the_next_its_turn(tmp_path: Path) -> None:
    write(tmp_path / "_rldk" / "run.jsonl", '{"type": "begin", "time": 1.0}\n')
    write(tmp_path / "dataset.jsonl", '{"prompt": "a", "answer": "b"}\n')
    left_behind(tmp_path, "state")
    for found in (read(tmp_path), load(tmp_path)):
        assert [note.split(":")[0] for note in found.notes[:2]] == ["not read", "not read"]
        assert found.notes[2:] == ("reading checkpoint-4/trainer_state.json",)
    (tmp_path / "checkpoint-4" / "trainer_state.json").unlink()
    with pytest.raises(UnreadableSourceError, match="run.jsonl: 0 entries"):
        read(tmp_path)


def test_the_latest_trainings_journal_goes_first_unless_it_is_empty(tmp_path: Path) -> None:
    for name, reward in (("run.jsonl", 1.0), ("run-2.jsonl", 2.0), ("run-10.jsonl", None)):
        metrics = {} if reward is None else {"rldk/reward/mean": reward}
        write(
            tmp_path / "_rldk" / name,
            json.dumps({"type": "metrics", "time": 1.0, "step": 1, "metrics": metrics}) + "\n",
        )
    assert read(tmp_path).entries[0].row == {"rldk/reward/mean": 2.0}
    assert read(tmp_path).notes[1:] == ("reading _rldk/run-2.jsonl; also found _rldk/run.jsonl",)


def test_a_folder_of_runs_names_them(tmp_path: Path) -> None:
    for name in ("healthy", "lr-jump"):
        left_behind(tmp_path / name, "journal")
    with pytest.raises(UnreadableSourceError, match="But its folders healthy, lr-jump hold runs"):
        read(tmp_path)


@pytest.mark.parametrize("source", ["sqlite:///mlflow.db", "http://127.0.0.1:5000", "postgresql://u@h/d"])
def test_a_stores_address_is_no_source(source: str) -> None:
    with pytest.raises(UnreadableSourceError, match="set MLFLOW_TRACKING_URI"):
        read(source)


def test_pipes_in_a_folder_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "_rldk").mkdir()
    (tmp_path / "checkpoint-1").mkdir()
    for name in ("_rldk/run.jsonl", "log.jsonl", "events.out.tfevents.1", "checkpoint-1/trainer_state.json"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(UnreadableSourceError, match="no trainer_state"):
        read(tmp_path)
