"""Where the demo's runs go, and what it says about how to open them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rldk_tracking.demo.stores import STORES, JsonlStore, MLflowStore, WandbStore, has_wandb_key


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    """Stores set variables for the trainers; they end with the test."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def test_names_are_what_report_to_calls_them() -> None:
    assert {name: store.report_to for name, store in STORES.items()} == {
        "mlflow": "mlflow",
        "wandb": "wandb",
        "jsonl": "none",
    }


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


def test_wandb_is_offline_without_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    WandbStore(tmp_path).prepare()
    assert os.environ["WANDB_MODE"] == "offline"
    assert os.environ["WANDB_DIR"] == str(tmp_path)


def test_a_key_is_seen_in_the_environment_and_in_netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert not has_wandb_key()
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password x\n")
    assert has_wandb_key()
    (tmp_path / "netrc").write_text("machine example.org login user password x\n")
    assert not has_wandb_key()
    (tmp_path / "netrc").write_text("not a netrc file\n")
    assert not has_wandb_key()
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert has_wandb_key()


def test_jsonl_begins_a_new_file(tmp_path: Path) -> None:
    store = JsonlStore(tmp_path)
    store.prepare()
    store.path("healthy").write_text("old\n")
    trackers = store.trackers("healthy")
    assert trackers is not None
    assert not store.path("healthy").exists() or store.path("healthy").read_text() == ""
    store.finished("healthy")
    assert store.how_to_open()[1].split() == ["healthy", str(store.path("healthy"))]
