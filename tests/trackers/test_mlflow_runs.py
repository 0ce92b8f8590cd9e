from __future__ import annotations

from typing import Any

import pytest

from rldk_tracking.trackers.base import UnavailableError
from rldk_tracking.trackers.mlflow_runs import last_step, make_run, write_tags

pytest.importorskip("mlflow", reason="needs mlflow")


def test_a_run_is_made_once_for_an_origin(store: Any) -> None:
    first = make_run(store.client, "mine", "abc", "a name")
    assert make_run(store.client, "mine", "abc", "a name") == first
    assert make_run(store.client, "mine", "other", None) != first


def test_what_makes_runs_without_a_name_is_not_mlflow(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    empty = mlflow.entities.Run.from_proto(mlflow.protos.service_pb2.Run())
    monkeypatch.setattr(mlflow.MlflowClient, "create_run", lambda *_, **__: empty)
    with pytest.raises(UnavailableError, match="not MLflow"):
        make_run(store.client, None, "abc", None)


def test_tags_and_last_step(store: Any) -> None:
    run_id = store.client.create_run(store.experiment_id).info.run_id
    assert last_step(store.client, run_id) is None
    store.client.log_metric(run_id, "theirs", 1.0, step=9)
    store.client.log_metric(run_id, "rldk/a", 1.0, step=7)
    assert last_step(store.client, run_id) == 7
    write_tags(store.client, run_id, {"a": "b", "long": "x" * 9000})
    tags = store.client.get_run(run_id).data.tags
    assert (tags["a"], len(tags["long"])) == ("b", 8000)
