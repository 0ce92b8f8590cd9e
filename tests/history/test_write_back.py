from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rldk_tracking.history.replay import replay
from rldk_tracking.history.write_back import write_back
from tests.trackers.wandb_log import load_finished

mlflow = pytest.importorskip("mlflow")


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    yield mlflow.MlflowClient()
    mlflow.set_tracking_uri(before)


def test_a_run_of_mlflow_gets_its_alerts_and_what_it_lacks_itself(client: Any) -> None:
    run_id = client.create_run(client.create_experiment("training")).info.run_id
    for step in range(30):
        client.log_metric(run_id, "train/completions/clipped_ratio", 0.9, step=step)
    source = f"mlflow:{run_id}"
    for _ in range(2):  # once from the trainer's series, then from those that were written back
        write_back(source, replay(source), "mlflow")
        assert len(client.get_metric_history(run_id, "rldk/length/truncated_fraction")) == 30
    assert "length.truncated" in client.get_run(run_id).data.tags["rldk.alerts.open"]
    assert len(client.search_experiments()) == 2  # with MLflow's own default


def test_w_and_b_gets_a_new_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    path = tmp_path / "log.csv"
    path.write_text("step,reward\n" + "".join(f"{step},0.5\n" for step in range(10)))
    write_back(str(path), replay(path), "wandb")
    log = load_finished(tmp_path)
    assert log.series("rldk/reward/mean") == [(step, 0.5) for step in range(10)]
