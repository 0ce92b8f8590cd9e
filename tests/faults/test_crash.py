"""A training that ends as none should: by a signal, an exception, for want of memory. Nobody calls `sync`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from rldk_tracking.cli.main import main
from tests.faults.bench import is_delivered, journals
from tests.faults.channel import Channel
from tests.faults.conftest import Backend
from tests.faults.processes import couriers, start, steps_said, wait_for
from tests.faults.scenario import records, stored_in_mlflow

AT = 8


def produced(folder: Path) -> set[tuple[str, int]]:
    """The numbers that a tracker in the training's own process was given."""
    rows = [record for record in records(folder / "produced" / "run.jsonl") if record["type"] == "metrics"]
    return {(key, record["step"]) for record in rows for key in record["metrics"]}


@pytest.fixture
def place(empty_store: Path, tmp_path: Path) -> dict[str, Any]:
    """A store and a run for a training in another process."""
    import mlflow

    shutil.copy(empty_store, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    run = mlflow.MlflowClient(tracking_uri=uri).create_run("0")
    return {"folder": str(tmp_path), "tracking_uri": uri, "run_id": run.info.run_id}


def check(place: dict[str, Any], folder: Path, steps: int = AT) -> dict[str, str]:
    """Every finished step is stored whole and once; returns the run's tags."""
    import mlflow

    assert wait_for(lambda: is_delivered(folder), 60)
    stored = stored_in_mlflow(place["tracking_uri"], place["run_id"])
    assert set(stored) == produced(folder)
    assert {step for key, step in stored if key == "rldk/reward/mean"} == set(range(1, steps + 1))
    assert set(stored.values()) == {1}
    assert wait_for(lambda: not couriers(folder), 20), "the courier ends by itself"
    return dict(mlflow.MlflowClient(tracking_uri=place["tracking_uri"]).get_run(place["run_id"]).data.tags)


@pytest.mark.parametrize(("how", "middle"), [("kill", False), ("kill", True), ("term", True)])
def test_killed(place: dict[str, Any], tmp_path: Path, how: str, middle: bool) -> None:
    """In a step's first instant or in its middle: every step that was over by then is stored, and people hear of it."""
    channel = Channel()
    done = start(**place, slack_url=channel.url, end=how, at=AT, middle=middle)
    assert steps_said(done) == list(range(1, AT + 1)), done.stderr[-3000:]
    tags = check(place, tmp_path)
    channel.close()
    assert tags["rldk.status"] == "crashed"
    assert int(tags["rldk.step"]) == AT
    assert "run.crashed" in tags["rldk.alerts.open"]
    assert channel.titles("run.crashed") == ["rldk critical: run.crashed"]
    assert f"step {AT}" in channel.texts("run.crashed")[0]
    (journal,) = journals(tmp_path)
    kinds = [record["type"] for record in records(journal)]
    assert "end" not in kinds
    assert kinds[-1] == "alert"


def test_killed_without_a_tracker(tmp_path: Path) -> None:
    done = start(folder=str(tmp_path), end="kill", at=AT)
    assert steps_said(done) == list(range(1, AT + 1)), done.stderr[-3000:]
    rows = [record["step"] for record in records(tmp_path / "produced" / "run.jsonl") if record["type"] == "metrics"]
    assert rows == list(range(1, AT + 1))


@pytest.mark.parametrize("how", ["exception", "exception that is long in printing", "interrupt"])
def test_ended_by_an_exception(place: dict[str, Any], tmp_path: Path, how: str) -> None:
    done = start(**place, end=how, at=AT)
    assert done.returncode != 0
    tags = check(place, tmp_path)
    assert tags["rldk.status"] == "crashed"
    assert tags["rldk.heartbeat"]
    # The exception is the training's own, and its words are in the journal.
    expected = "KeyboardInterrupt" if how == "interrupt" else "the training failed"
    assert expected in done.stderr
    (journal,) = journals(tmp_path)
    end, told = records(journal)[-2:]
    assert (end["type"], end["status"], end["step"]) == ("end", "crashed", AT)
    assert (told["type"], told["rule"], told["state"]) == ("alert", "run.crashed", "firing")
    assert expected in end["exception"]


def test_killed_while_the_server_is_down(backend: Backend, tmp_path: Path) -> None:
    backend.proxy.status = 503
    place = {"folder": str(tmp_path), "tracking_uri": backend.proxy.url, "run_id": backend.run_id}
    done = start(**place, end="kill", at=AT)
    assert steps_said(done) == list(range(1, AT + 1)), done.stderr[-3000:]
    assert stored_in_mlflow(backend.store, backend.run_id) == {}
    backend.proxy.status = None
    assert check(place | {"tracking_uri": backend.store}, tmp_path)["rldk.status"] == "crashed"


def test_killed_beside_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline, W&B's log of the first process and that of `sync` make one whole: its client died with the training."""
    wandb = pytest.importorskip("wandb")
    from tests.trackers.wandb_log import load

    monkeypatch.setenv("WANDB_MODE", "offline")
    start(folder=str(tmp_path), wandb_id="killed01", end="kill", at=AT)
    assert main(["sync", str(tmp_path)]) == 0
    wandb.teardown()
    logs = [load(path) for path in sorted(tmp_path.rglob("*.wandb"))]
    for key in ("rldk/alerts/firing", "rldk/train/loss"):
        assert sorted(step for log in logs for step, _ in log.series(key)) == list(range(1, AT + 1))
    assert logs[-1].summary["rldk/status"] == "crashed"
