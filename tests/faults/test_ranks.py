"""Several gloo ranks of which one lags, fails or drifts: one writer, one verdict, nobody waits for us in vain."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.faults.scenario import records

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tests" / "faults" / "ranks_script.py"
# Fires at the first gradient, as a critical alert.
STOP = {"grad.explosion": {"threshold": 0.0, "persistence": (1, 1), "warm_up_steps": 0, "severity": "critical"}}


def launch(world_size: int, folder: Path, script: Path = SCRIPT, **options: Any) -> subprocess.CompletedProcess[str]:
    options["folder"] = str(folder)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={world_size}"]
    return subprocess.run(
        [*command, str(script), json.dumps(options)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def results(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("rank-*.json"))]


def trained(world_size: int, folder: Path, **options: Any) -> list[dict[str, Any]]:
    done = launch(world_size, folder, **options)
    assert done.returncode == 0, done.stderr[-4000:]
    found = results(folder)
    assert len(found) == world_size
    return found


@pytest.mark.parametrize(("kind", "world_size"), [("grpo", 3), ("ppo", 2)])
def test_every_rank_stops_in_the_same_step(kind: str, world_size: int, tmp_path: Path) -> None:
    if kind == "ppo":
        pytest.importorskip("trl.experimental.ppo", reason="PPOTrainer was removed from TRL in 1.13")
    ranks = trained(world_size, tmp_path, kind=kind, steps=8, on_critical="stop", overrides=STOP)
    first = ranks[0]
    assert 1 <= first["last"] < 8
    for rank in ranks:
        assert (rank["last"], rank["ended"], rank["steps"]) == (first["last"], first["ended"], first["steps"])
    # One judge, and one writer.
    assert first["alerts"]
    assert first["told"]
    assert all(rank["alerts"] == rank["told"] == [] and rank["series"] == {} for rank in ranks[1:])
    rows = [record["step"] for record in records(tmp_path / "rows" / "run.jsonl") if record["type"] == "metrics"]
    assert sorted(set(rows)) == list(range(1, first["last"] + 1))


def test_what_rank_0_asks_is_done_by_ranks_that_ask_for_something_else(tmp_path: Path) -> None:
    other = {"overrides": {"grad.explosion": {"enabled": False}}, "on_critical": "alert"}
    ranks = trained(2, tmp_path, steps=6, on_critical="stop", overrides=STOP, other=other)
    assert 1 <= ranks[0]["last"] < 6
    assert ranks[0]["last"] == ranks[1]["last"] and ranks[0]["steps"] == ranks[1]["steps"]


@pytest.mark.parametrize("only", [0, 1])
def test_the_callback_on_one_rank_alone_keeps_nobody_waiting(only: int, tmp_path: Path) -> None:
    """`callbacks=[RLDKCallback()] if is_main else []`, as most people write it."""
    done = launch(2, tmp_path, steps=4, only=only)
    assert done.returncode == 0, done.stderr[-4000:]
    ranks = results(tmp_path)
    assert [rank["last"] for rank in ranks] == [4, 4]
    assert {step for step, _ in ranks[only]["series"]["rldk/reward/mean"]} == {1, 2, 3, 4}
    assert ranks[1 - only]["series"] == {}
    said = f"Rank {1 - only} of 2 did not come within 3 s, as without the callback. Give every rank the callback"
    assert done.stderr.count(said) == 1 and f"Rank {only} goes on alone" in done.stderr


def test_a_rank_that_lags_is_seen_and_costs_what_it_costs(tmp_path: Path) -> None:
    ranks = trained(2, tmp_path, trouble="slow", steps=4)
    spread = dict(ranks[0]["series"]["rldk/system/rank_spread/seconds"])
    assert min(spread.values()) > 0.1
    weights = [value for _, value in ranks[0]["series"]["rldk/system/rank_spread/weights"]]
    assert max(weights) == 0.0, "copies that are updated alike stay alike"


def test_weights_that_drift_apart_are_seen(tmp_path: Path) -> None:
    ranks = trained(2, tmp_path, trouble="drift", at=2, steps=4)
    spread = dict(map(tuple, ranks[0]["series"]["rldk/system/rank_spread/weights"]))
    assert [spread[step] for step in (1, 2)] == [0.0, 0.0]
    assert spread[3] > 0.2


def test_a_diagnostic_that_fails_on_one_rank_stops_nobody(tmp_path: Path) -> None:
    ranks = trained(2, tmp_path, broken=True, steps=4)
    assert [rank["last"] for rank in ranks] == [4, 4]
    steps = {step for step, _ in ranks[0]["series"]["rldk/reward/mean"]}
    assert steps >= {1, 3, 4}


def test_a_rank_that_fails_is_not_hidden_and_not_prolonged(tmp_path: Path) -> None:
    begin = time.monotonic()
    done = launch(2, tmp_path, trouble="exception", at=2, steps=50)
    assert done.returncode != 0
    assert "this rank failed" in done.stderr
    assert results(tmp_path) == []
    # Start-up is most of it. Waiting for a rank that is gone would end with gloo's time limit, in half an hour.
    assert time.monotonic() - begin < 180
    rows = [record["step"] for record in records(tmp_path / "rows" / "run.jsonl") if record["type"] == "metrics"]
    assert rows[:1] == [1]
