"""Each example is run as its docstring says, in a folder of its own, and does what it claims."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
NEEDS_PPO = pytest.mark.skipif(
    find_spec("trl.experimental") is None or find_spec("trl.experimental.ppo") is None,
    reason="this TRL has no PPOTrainer (trl.experimental.ppo)",
)


def run(name: str, folder: Path) -> str:
    """Standard output of the example, which must end without an error and within half a minute on an idle machine."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, str(EXAMPLES / name)]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_example_is_tested_here() -> None:
    tested = Path(__file__).read_text(encoding="utf-8")
    assert {path.name for path in EXAMPLES.glob("*.py") if f'"{path.name}"' not in tested} == set()


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_it_says_how_to_run_it(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring is not None
    assert f"python examples/{path.name}" in docstring


def test_grpo_mlflow(tmp_path: Path) -> None:
    shown = run("grpo_mlflow.py", tmp_path)
    assert "step 20: reward" in shown

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("grpo")
    (found,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(found.info.run_id, "rldk/reward/mean")
    assert sorted(point.step for point in history) == list(range(1, 21))
    assert "rldk/kl/ref_k1" not in found.data.metrics, "beta is 0, so there is no reference to measure against"


def test_grpo_wandb(tmp_path: Path) -> None:
    run("grpo_wandb.py", tmp_path)
    (log,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    assert b"rldk/reward/mean" in log.read_bytes()


@NEEDS_PPO
def test_basic_ppo_integration(tmp_path: Path) -> None:
    shown = run("basic_ppo_integration.py", tmp_path)
    assert "PPOMetrics(step=15" in shown
    rows = [line for line in lines_of(tmp_path / "rldk_logs" / "run.jsonl") if line["type"] == "metrics"]
    of_steps = [row for row in rows if "rldk/kl/ref_k1" in row["metrics"]]
    assert [row["step"] for row in of_steps] == list(range(1, 16)), "two monitors, one row a step"
    points = [(key, row["step"]) for row in rows for key in row["metrics"]]
    assert len(points) == len(set(points)), "what is known only at the end is in no other row"


@NEEDS_PPO
def test_advanced_monitoring_stops_at_the_nan(tmp_path: Path) -> None:
    shown = run("advanced_monitoring.py", tmp_path)
    assert "stopped: " in shown
    assert "rldk critical: nan." in shown
    assert list((tmp_path / "ppo_output").glob("checkpoint-*")), "it saved before it stopped"


def test_custom_callbacks(tmp_path: Path) -> None:
    shown = run("custom_callbacks.py", tmp_path)
    assert "solved at step" in shown
    assert "step 10: reward" in shown
    assert "own loop: reward" in shown
    assert "rldk/diversity/unique_fraction" in shown
