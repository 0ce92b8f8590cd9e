from __future__ import annotations

import json
from pathlib import Path

import pytest

from rldk_tracking.cli.main import main


def log(path: Path, rewards: list[float], **extra: float) -> Path:
    rows = [
        {"step": step, "loss": 0.1, "grad_norm": 1.0, "learning_rate": 1e-5, "reward": reward, **extra}
        for step, reward in enumerate(rewards, 1)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def healthy(tmp_path: Path) -> Path:
    return log(tmp_path / "healthy.jsonl", [0.2 + 0.005 * step for step in range(60)])


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    path = log(tmp_path / "broken.jsonl", [0.2 + 0.005 * step for step in range(20)])
    with path.open("a") as file:
        file.write(json.dumps({"step": 21, "loss": 0.1, "grad_norm": float("nan"), "reward": 0.3}) + "\n")
    return path


def test_a_healthy_run_is_zero(healthy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(healthy)]) == 0
    assert capsys.readouterr().out.startswith("healthy: ")


def test_a_nan_is_two_and_json_says_where(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(broken), "--format", "json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "critical"
    assert found["rows"] == 21
    (alert,) = [alert for alert in found["alerts"] if alert["rule"].startswith("nan.")]
    assert (alert["rule"], alert["severity"], alert["state"]) == ("nan.gradients", "critical", "firing")
    assert (alert["step"], alert["row"]) == (21, 20)
    assert {"value", "threshold", "message", "advice"} <= set(alert)
    assert "value.explained_variance" in found["unknown"]


def test_what_cannot_be_read_is_three(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(tmp_path / "nothing.jsonl")]) == 3
    assert "nothing.jsonl" in capsys.readouterr().err


def test_many_at_once_end_in_a_table(healthy: Path, broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(healthy), str(broken), "--jobs", "2"]) == 2
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[-2].startswith("healthy") and lines[-1].startswith("critical")
    assert "nan.gradients" in lines[-1]


def test_markdown_is_escaped(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(broken), "--format", "markdown"]) == 2
    out = capsys.readouterr().out
    assert out.startswith("## critical: ")
    assert "- step 21 (row 20) critical nan.gradients" in out


def test_a_run_can_be_written_into_mlflow(
    broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    assert main(["replay", str(broken), "--to", "mlflow"]) == 2
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("rldk-replay")
    (run,) = client.search_runs([experiment.experiment_id])
    assert len(client.get_metric_history(run.info.run_id, "rldk/reward/mean")) == 21
    assert "nan.gradients" in run.data.tags["rldk.alerts.open"]
    assert main(["replay", "mlflow:experiment/rldk-replay"]) == 2
    assert main(["replay", "mlflow:experiment/nobody"]) == 3
    mlflow.set_tracking_uri(before)


def test_names_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps({"step": step, "cut": 0.9}) + "\n" for step in range(30)))
    assert main(["replay", str(path), "--alias", "cut=rldk/length/truncated_fraction"]) == 1
    assert "length.truncated" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="NAME=KEY"):
        main(["replay", str(path), "--alias", "cut"])
