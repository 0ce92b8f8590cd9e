"""Runs out of an MLflow store, and the demo's store on this machine."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rldk_tracking.history.reading import read, runs_of
from rldk_tracking.history.replay import replay
from rldk_tracking.history.run_history import UnreadableSourceError
from rldk_tracking.messages.packages import install_line
from rldk_tracking.trackers.mlflow_backend import MLflowBackend, MLflowStore
from rldk_tracking.trackers.mlflow_server import local_store


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    """Stores set variables for the trainers; they end with the test."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def client(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="reads an MLflow store")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    yield mlflow.MlflowClient()
    mlflow.set_tracking_uri(None)


def stored(client, metrics: dict[str, list[float]], experiment: str = "tests") -> str:
    found = client.get_experiment_by_name(experiment)
    identity = found.experiment_id if found else client.create_experiment(experiment)
    run = client.create_run(identity)
    client.log_param(run.info.run_id, "learning_rate", "1e-05")
    client.log_param(run.info.run_id, "trainer", "GRPOTrainer")
    for key, values in metrics.items():
        for step, value in enumerate(values):
            client.log_metric(run.info.run_id, key, value, step=step)
    return run.info.run_id


def test_our_own_series_are_judged_alone(client) -> None:
    run = stored(
        client,
        {
            "rldk/length/truncated_fraction": [0.9] * 20,
            "rldk/health/score": [1.0] * 20,
            "completions/clipped_ratio": [0.0] * 20,
        },
    )
    past = read(f"mlflow:{run}")
    assert past.entries[3].row == {"rldk/length/truncated_fraction": 0.9}
    assert past.settings == {"learning_rate": 1e-5, "trainer": "GRPOTrainer"}
    assert [alert.rule for _, alert in replay(past).alerts] == ["length.truncated"]


def test_a_run_that_we_did_not_watch(client) -> None:
    run = stored(client, {"reward": [0.1, 0.2], "train/kl": [0.0, 0.1], "system/cpu": [1.0, 1.0]})
    rows = [entry.row for entry in read(f"mlflow:{run}").entries]
    assert rows == [{"rldk/reward/mean": 0.1, "rldk/kl/ref_k3": 0.0}, {"rldk/reward/mean": 0.2, "rldk/kl/ref_k3": 0.1}]


def test_every_run_of_an_experiment(client) -> None:
    runs = {f"mlflow:{stored(client, {'reward': [0.1]}, 'many')}" for _ in range(3)}
    assert set(runs_of("mlflow:experiment/many")) == runs
    assert runs_of("mlflow:abc") == ["mlflow:abc"]
    with pytest.raises(UnreadableSourceError, match="no such experiment"):
        runs_of("mlflow:experiment/none")


def test_no_such_run(client) -> None:
    client.search_experiments()
    with pytest.raises(UnreadableSourceError, match="mlflow:0123"):
        read("mlflow:0123")


@pytest.mark.parametrize("source", ["mlflow:experiment/none", "mlflow:0123"])
@pytest.mark.parametrize("uri", [None, "sqlite:///none/mlflow.db", "none/mlruns"])
def test_a_store_that_is_missing_is_not_made(tmp_path, monkeypatch, source: str, uri: str | None) -> None:
    mlflow = pytest.importorskip("mlflow", reason="reads an MLflow store")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(uri)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    try:
        with pytest.raises(UnreadableSourceError, match=f"{source}: there is no MLflow store at .*MLFLOW_TRACKING_URI"):
            read(runs_of(source)[0])
    finally:
        mlflow.set_tracking_uri(None)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_not_there_is_an_unreadable_source(monkeypatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="reads an MLflow store")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mlflow.set_tracking_uri("http://me:secret@127.0.0.1:1")
    try:
        for source in ("mlflow:experiment/none", "mlflow:0123"):
            with pytest.raises(UnreadableSourceError, match=source) as refused:
                read(runs_of(source)[0])
            assert "asked was http://127.0.0.1:1" in str(refused.value)
    finally:
        mlflow.set_tracking_uri(None)


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        ("sqlite:///a/b.db", "a/b.db"),
        ("sqlite:////a/b.db?x=1", "/a/b.db"),
        ("file:///a/mlruns", "/a/mlruns"),
        ("mlruns", "mlruns"),
        ("http://host:5000", None),
        ("postgresql://u@h/d", None),
        ("databricks", None),
    ],
)
def test_where_a_store_lies(uri: str, place: str | None) -> None:
    assert local_store(uri) == (None if place is None else Path(place))


def test_without_mlflow_the_extra_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    for source in ("mlflow:experiment/none", "mlflow:0123"):
        with pytest.raises(ImportError, match=re.escape(install_line("mlflow"))):
            read(runs_of(source)[0])


@pytest.mark.slow
def test_mlflow_keeps_everything_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri()
    store = MLflowStore(Path.cwd())
    try:
        store.prepare()
        assert store.uri == "sqlite:///mlflow.db"
        with mlflow.start_run(experiment_id=mlflow.get_experiment_by_name("rldk-demo").experiment_id) as run:
            mlflow.log_text("x", "x.txt")
        store.finished("healthy")
        store.prepare()
    finally:
        mlflow.set_tracking_uri(before)
    lines = store.how_to_open()
    assert "mlflow ui --backend-store-uri sqlite:///mlflow.db" in lines[1]
    assert lines[2].split()[0] == "healthy"
    assert f"/runs/{run.info.run_id}" in lines[2]
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db", "mlruns"}


def test_mlflow_in_another_folder_is_named_in_full(tmp_path: Path) -> None:
    assert MLflowStore(tmp_path).uri == f"sqlite:///{tmp_path}/mlflow.db"


@pytest.mark.parametrize(
    ("uri", "is_ready"), [("http://127.0.0.1:5000", True), ("sqlite:///mlflow.db", False), ("", False)]
)
def test_the_client_alone_is_for_servers(monkeypatch: pytest.MonkeyPatch, uri: str, is_ready: bool) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    ready, detail = MLflowBackend().check({"mlflow": None, "mlflow-skinny": "3.17.2"})
    assert ready is is_ready
    assert (install_line("mlflow") in detail) is not is_ready
    assert bool(MLflowBackend().notes({"mlflow": None, "mlflow-skinny": "3.17.2"})) is is_ready
