"""Checkpoints as models, in a real sqlite store."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

mlflow = pytest.importorskip("mlflow")

from rldk_tracking.trackers.base import Row, RunInfo  # noqa: E402
from rldk_tracking.trackers.mlflow import MLflowTracker  # noqa: E402
from rldk_tracking.trackers.mlflow_models import log_model  # noqa: E402


def test_one_model_for_each_checkpoint(tmp_path: Path) -> None:
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/store.db")
    experiment = client.create_experiment("e", artifact_location=str(tmp_path / "artifacts"))
    run = client.create_run(experiment)
    run_id = run.info.run_id
    scores = {100: 0.9, 200: 0.5}
    for step, score in scores.items():
        for again in range(3):  # neither a call that is repeated nor a step that is made again makes a second model
            log_model(
                mlflow,
                client,
                run_id,
                experiment,
                f"checkpoint-{step}",
                {"rldk/checkpoint/score": score if again < 2 else score / 2},
                {"path": "x" * 400},
                step,
            )
    found = client.search_logged_models([experiment], order_by=[{"field_name": "name"}])
    assert [model.name for model in found] == ["checkpoint-100", "checkpoint-200"]
    assert all(str(model.status) == "READY" and model.source_run_id == run_id for model in found)
    assert [model.metrics[0].value for model in found] == [0.9, 0.5]
    assert len(found[0].params["path"]) == 250
    good = client.search_logged_models([experiment], filter_string="metrics.`rldk/checkpoint/score` > 0.6")
    assert [model.name for model in good] == ["checkpoint-100"]
    history = client.get_metric_history(run_id, "rldk/checkpoint/score")
    assert sorted((metric.step, metric.value) for metric in history) == [(100, 0.9), (200, 0.5)]
    outputs = client.get_run(run_id).outputs.model_outputs
    assert sorted(output.step for output in outputs) == [100, 200]


def test_numbers_that_become_known_at_the_next_checkpoint_are_there_once(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/store.db"
    client = mlflow.MlflowClient(tracking_uri=uri)
    run_id = client.create_run("0").info.run_id
    tracker = MLflowTracker(run_id=run_id, tracking_uri=uri)
    tracker.open(RunInfo())
    for step, score in ((3, 0.9), (6, 0.5)):
        metrics = {"rldk/checkpoint/score": score}
        tracker.log_checkpoint(f"checkpoint-{step}", metrics, {}, step)
        # The scan took three steps.
        tracker.log_rows([Row({"rldk/reward/mean": 1.0} | metrics, step + 3, time.time())])
    tracker.close()
    scores = client.get_metric_history(run_id, "rldk/checkpoint/score")
    assert sorted((point.step, point.value) for point in scores) == [(3, 0.9), (6, 0.5)]
    assert sorted(point.step for point in client.get_metric_history(run_id, "rldk/reward/mean")) == [6, 9]
