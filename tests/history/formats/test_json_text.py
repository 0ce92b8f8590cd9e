"""JSON in the shapes in which it is written: each file is made here, in the form of the writer that is named."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from rldk_tracking.history.reading import read
from tests.history.formats.conftest import Reads


def lines(*entries: dict[str, Any]) -> str:
    return "".join(json.dumps(entry) + "\n" for entry in entries)


REWARDS = [{"rldk/reward/mean": 0.25}, {"rldk/reward/mean": 0.5}]


@pytest.mark.parametrize(
    "data",
    [
        [{"step": 1, "reward": 0.25}, {"step": 2, "reward": 0.5}],
        {"reward": [0.25, 0.5], "step": [1, 2], "note": "x", "betas": [0.9]},
        {"reward": {"0": 0.25, "1": 0.5}, "step": {"0": 1, "1": 2}},
        {"history": [{"step": 1, "reward": 0.25}, {"step": 2, "reward": 0.5}], "layers": [{"reward": 9.0}] * 3},
        {"history": {"reward": [0.25, 0.5], "step": [1, 2]}},
        {"logs": [{"step": 1, "metrics": {"reward": 0.25}}, {"step": 2, "metrics": {"reward": 0.5}}]},
        {"log_history": [{"step": 1, "reward": 0.25}, {"step": 2, "reward": 0.5}]},
        {"run": {"args": {"seed": 1}, "train": [{"step": 1, "reward": 0.25}, {"step": 2, "reward": 0.5}]}},
    ],
    ids=["rows", "columns", "pandas", "history", "history of columns", "logs", "log_history", "below"],
)
@pytest.mark.parametrize("indent", [None, 1])
def test_one_value(data: Any, indent: int | None, reads: Reads) -> None:
    found = reads(json.dumps(data, indent=indent))
    assert [(entry.step, entry.row) for entry in found.entries] == list(zip((1, 2), REWARDS, strict=True))
    assert found.format == "JSON"


def test_several_runs_of_one_value(reads: Reads) -> None:
    data = {"a": [{"reward": 0.5}], "b": [{"reward": 0.25}, {"reward": 0.5}]}
    found = reads(json.dumps(data))
    assert [entry.row for entry in found.entries] == REWARDS
    assert "reading run b of 2 in the file; also found a; '" in found.notes[0]
    assert [entry.row for entry in reads(json.dumps(data), "a").entries] == [{"rldk/reward/mean": 0.5}]
    with pytest.raises(ValueError, match="no run 'c'; there are a, b"):
        reads(json.dumps(data), "c")


def test_rows_of_a_data_frame_with_a_column_of_the_summary(reads: Reads) -> None:
    """pandas of a `log_history`: every row has every column, and NaN where it had nothing. A loss that failed stays."""
    nan = math.nan
    rows = [
        {"loss": 0.5, "reward": 0.25, "grad_norm": 1.0, "step": 1, "eval_loss": nan, "train_runtime": nan},
        {"loss": nan, "reward": nan, "grad_norm": nan, "step": 1, "eval_loss": 0.75, "train_runtime": nan},
        {"loss": nan, "reward": 0.5, "grad_norm": 2.0, "step": 2, "eval_loss": nan, "train_runtime": nan},
        {"loss": nan, "reward": nan, "grad_norm": nan, "step": 2, "eval_loss": nan, "train_runtime": 9.0},
    ]
    expected = [
        {"rldk/train/loss": 0.5, "rldk/reward/mean": 0.25, "rldk/grad/norm": 1.0, "rldk/nan/gradients": 0.0},
        {"rldk/eval/loss": 0.75},
        {"rldk/nan/loss": 1.0, "rldk/reward/mean": 0.5, "rldk/grad/norm": 2.0, "rldk/nan/gradients": 0.0},
    ]
    assert [entry.row for entry in reads(json.dumps(rows)).entries] == expected
    holes = [
        {name: None if value != value and name != "loss" else value for name, value in row.items()} for row in rows
    ]
    assert [entry.row for entry in reads(json.dumps(holes)).entries] == expected


def test_llama_factory(reads: Reads) -> None:
    progress = {"percentage": 50.0, "elapsed_time": "0:00:10", "remaining_time": "0:00:10"}
    text = lines(
        {"current_steps": 5, "total_steps": 20, "loss": 0.5, "accuracy": 0.75, "lr": 1e-6, "epoch": 0.5, **progress},
        {"current_steps": 10, "total_steps": 20, "eval_loss": 0.25, "epoch": 1.0, **progress},
        {"current_steps": 10, "total_steps": 20, "epoch": 1.0, **progress},
    )
    found = reads(text)
    assert [(entry.step, entry.row) for entry in found.entries] == [
        (5, {"rldk/train/loss": 0.5, "rldk/update/learning_rate": 1e-6, "rldk/preference/accuracy": 0.75}),
        (10, {"rldk/eval/loss": 0.25}),
    ]
    assert found.format == "LLaMA-Factory's trainer_log.jsonl" and found.settings == {"max_steps": 20}


@pytest.mark.parametrize("name", ["global_step/max_steps", "iteration"])
def test_ms_swift(name: str, reads: Reads) -> None:
    text = lines(
        {"loss": 0.5, "reward": 0.25, "epoch": 0.1, name: "2/720", "elapsed_time": "2s", "memory(GiB)": 1.5},
        {"loss": 0.5, "reward": 0.5, "epoch": 0.2, name: "4/720", "elapsed_time": "4s", "memory(GiB)": 1.5},
        {"last_model_checkpoint": "x", "best_metric": 0.5, "global_step": 720, "log_history": [{"loss": 0.5}]},
    )
    found = reads(text)
    assert [(entry.step, entry.row["rldk/reward/mean"]) for entry in found.entries] == [(2, 0.25), (4, 0.5)]
    assert found.format == ("JSON lines" if name == "iteration" else "ms-swift's logging.jsonl")


def test_verl(reads: Reads) -> None:
    found = reads(lines({"step": 7, "data": {"actor/lr": 1e-6, "critic/score/mean": 0.5}}))
    assert [(entry.step, entry.row) for entry in found.entries] == [
        (7, {"rldk/update/learning_rate": 1e-6, "rldk/reward/mean": 0.5})
    ]
    assert found.format == "verl's file"


def test_prime_rl_writes_a_step_in_several_lines(reads: Reads) -> None:
    of_agent = "train/agg/effective/solver"
    text = lines(
        {"step": 1, "time": 1.0, "perf/mfu": 30.0},
        {"step": 1, "time": 1.1, "optim/lr": 1e-6, "optim/grad_norm": 0.5},
        {"step": 1, "time": 1.2, "loss/mean": 0.25, "entropy/all/mean": 0.75},
        {"step": 2, "time": 2.0, f"{of_agent}/reward/mean": 0.5, f"{of_agent}/is_truncated/mean": 0.1},
    )
    found = reads(text)
    assert found.format == "prime-rl's metrics"
    assert [(entry.step, entry.row) for entry in found.entries] == [
        (
            1,
            {
                "rldk/train/loss": 0.25,
                "rldk/policy/entropy": 0.75,
                "rldk/grad/norm": 0.5,
                "rldk/nan/gradients": 0.0,
                "rldk/update/learning_rate": 1e-6,
            },
        ),
        (2, {"rldk/reward/mean": 0.5, "rldk/length/truncated_fraction": 0.1}),
    ]


def test_half_a_character_and_bytes_that_are_none_cost_no_line(tmp_path: Path) -> None:
    path = tmp_path / "odd.jsonl"
    text = r'{"step": 1, "reward": 0.25, "text": "\ud83d"}'
    path.write_bytes(b"\xef\xbb\xbf" + text.encode() + b'\n{"step": 2, "reward": 0.5, "text": "\xff"}\n')
    assert [entry.row for entry in read(path).entries] == REWARDS
