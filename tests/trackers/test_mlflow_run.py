"""What is written into a run, in a real sqlite store."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

mlflow = pytest.importorskip("mlflow", reason="needs mlflow")

from rldk_tracking.trackers.base import Row, RunInfo, UnavailableError  # noqa: E402
from rldk_tracking.trackers.mlflow import MLflowTracker  # noqa: E402
from rldk_tracking.trackers.mlflow_run import (  # noqa: E402
    TABLES_TAG,
    Names,
    is_listed,
    last_step,
    log_model,
    make_run,
    sanitised,
    write_table,
    write_tags,
)


@given(st.text(min_size=0, max_size=300))
def test_any_key_becomes_one_that_mlflow_takes(key: str) -> None:
    from mlflow.utils.validation import MAX_ENTITY_KEY_LENGTH, _validate_length_limit, _validate_metric_name

    name = sanitised(key)
    _validate_metric_name(name)
    _validate_length_limit("name", MAX_ENTITY_KEY_LENGTH, name)


@given(st.lists(st.text(alphabet="a(%/. ", max_size=6), unique=True, max_size=30))
def test_two_keys_never_share_a_name(keys: list[str]) -> None:
    names = Names()
    assert len({names[key] for key in keys}) == len(keys)
    assert [names[key] for key in keys] == [names[key] for key in keys]


def test_legal_keys_stay_as_they_are() -> None:
    for key in ("rldk/kl/ref_k1", "rldk/rewards/my.fn-2/mean", "train loss"):
        assert sanitised(key) == key


def test_what_a_tracker_may_be_given() -> None:
    MLflowTracker(None, None, None)
    MLflowTracker("abc", "http://127.0.0.1:5000", "mine")
    wrong: list[Any] = [(5, None, None), (None, 5000, None), (None, None, "")]
    for arguments in wrong:
        with pytest.raises((TypeError, ValueError), match=r"must be .*: write "):
            MLflowTracker(*arguments)


def test_a_run_is_made_once_for_an_origin(store: Any) -> None:
    first = make_run(store.client, "mine", "abc", "a name")
    assert make_run(store.client, "mine", "abc", "a name") == first
    assert make_run(store.client, "mine", "other", None) != first


def test_what_makes_runs_without_a_name_is_not_mlflow(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_table_is_listed_once_and_others_stay(store: Any) -> None:
    client = store.client
    run_id = client.create_run(
        store.experiment_id, tags={TABLES_TAG: '[{"path": "theirs.json", "type": "table"}]'}
    ).info.run_id
    assert not is_listed(client, run_id, "ours.json")
    for value in (1, 2):
        write_table(client, run_id, "ours.json", ["a"], [[value]])
    assert is_listed(client, run_id, "ours.json") and is_listed(client, run_id, "theirs.json")
    assert client.get_run(run_id).data.tags[TABLES_TAG].count("ours.json") == 1
    assert client.load_table(store.experiment_id, "ours.json", run_ids=[run_id])["a"].tolist() == [2]


def test_how_much_of_a_trainer_is_read_is_a_tag_as_well(store: Any) -> None:
    run_id = store.client.create_run(store.experiment_id).info.run_id
    write_table(store.client, run_id, "rldk/system/coverage/step-00000002.json", ["read"], [["Read: 4 of 5 series."]])
    assert store.client.get_run(run_id).data.tags["rldk.coverage"] == "Read: 4 of 5 series."


@pytest.mark.slow
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


@pytest.mark.slow
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
