"""Runs out of W&B by its public client, and the demo's runs on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from rldk_tracking.history.reading import read, runs_of
from rldk_tracking.history.run_history import UnreadableSourceError
from rldk_tracking.trackers.wandb_backend import WandbStore, has_key
from tests.trackers.wandb_backend import WandbBackend


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    """Stores set variables for the trainers; they end with the test."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize("source", ["wandb:project", "wandb:a/b", "wandb:a//c", "wandb:a/b/c/d"])
def test_a_wandb_run_has_three_parts(source: str) -> None:
    pytest.importorskip("wandb", reason="reads a W&B run")
    with pytest.raises(UnreadableSourceError, match=f"{source}: write wandb:ENTITY/PROJECT/RUN"):
        read(source)


def test_wandb(monkeypatch) -> None:
    wandb = pytest.importorskip("wandb", reason="reads a W&B run")
    history = [
        {"_step": 0, "train/global_step": 5, "train/reward": 0.5, "rldk/health/score": 1.0},
        {"_step": 1, "x": None},
    ]
    run = SimpleNamespace(scan_history=lambda: iter(history), config={"beta": 0.1, "nested": {"a": 1}})
    monkeypatch.setattr(wandb, "Api", lambda: SimpleNamespace(run=lambda path: {"me/p/1": run}[path]))
    past = read("wandb:me/p/1")
    assert [(entry.step, entry.row) for entry in past.entries] == [(5, {"rldk/reward/mean": 0.5})]
    assert past.settings == {"beta": 0.1}


def test_every_run_of_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb", reason="lists the runs of a W&B project")
    server = WandbBackend()
    for name in ("BASE_URL", "DIR", "CONFIG_DIR", "CACHE_DIR", "DATA_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", server.url if name == "BASE_URL" else str(tmp_path))
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    wandb.teardown()  # what it remembers of another server
    try:
        with pytest.raises(UnreadableSourceError, match="wandb:tester/p: the project has no run"):
            runs_of("wandb:tester/p")
        server.run("older")
        server.run("newer")
        assert runs_of("wandb:tester/p") == ["wandb:tester/p/newer", "wandb:tester/p/older"]
        with pytest.raises(UnreadableSourceError, match="wandb:tester/none: "):
            runs_of("wandb:tester/none")
        assert runs_of("wandb:tester/p/1") == ["wandb:tester/p/1"]
    finally:
        wandb.teardown()
        server.close()


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
    assert not has_key()
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password x\n")
    assert has_key()
    (tmp_path / "netrc").write_text("machine example.org login user password x\n")
    assert not has_key()
    (tmp_path / "netrc").write_text("not a netrc file\n")
    assert not has_key()
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert has_key()
