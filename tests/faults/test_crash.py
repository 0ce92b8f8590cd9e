"""A training that ends as none should: by a signal, an exception, for want of memory."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rldk_tracking.cli.main import main
from rldk_tracking.trackers.journal import read
from tests.faults.conftest import Backend
from tests.faults.processes import start, steps_said
from tests.faults.scenario import stored_in_mlflow

AT = 8


def produced(folder: Path) -> set[tuple[str, int]]:
    records = [record for record in read(folder / "produced" / "run.jsonl") if record["type"] == "metrics"]
    return {(key, record["step"]) for record in records for key in record["metrics"]}


KNOWN_AT_ONCE = {"rldk/train/loss", "rldk/grad/norm", "rldk/update/learning_rate"}
"""What the trainer itself says of a step, which does not have to be computed."""


def check_every_step(stored: Counter[tuple[str, int]], folder: Path) -> None:
    """Once, and whole but for the last one, whose row may have been being computed."""
    assert set(stored) >= produced(folder)
    assert set(stored.values()) == {1}
    assert {step for key, step in stored if key == "rldk/reward/mean"} >= set(range(1, AT))
    for known in KNOWN_AT_ONCE:
        assert {step for key, step in stored if key == known} == set(range(1, AT + 1))


@pytest.fixture
def place(empty_store: Path, tmp_path: Path) -> dict[str, Any]:
    """A store and a run for a training in another process."""
    import shutil

    import mlflow

    shutil.copy(empty_store, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    run = mlflow.MlflowClient(tracking_uri=uri).create_run("0")
    return {"folder": str(tmp_path), "tracking_uri": uri, "run_id": run.info.run_id}


def tags(place: dict[str, Any]) -> dict[str, str]:
    import mlflow

    return dict(mlflow.MlflowClient(tracking_uri=place["tracking_uri"]).get_run(place["run_id"]).data.tags)


@pytest.mark.parametrize("how", ["kill", "term"])
def test_killed_in_the_middle_of_a_step(place: dict[str, Any], tmp_path: Path, how: str) -> None:
    """Everything up to the step before is there."""
    done = start(**place, end=how, at=AT, middle=True)
    assert steps_said(done) == list(range(1, AT + 1)), done.stderr[-3000:]
    assert main(["sync", str(tmp_path)]) == 0
    stored = stored_in_mlflow(place["tracking_uri"], place["run_id"])
    assert {step for _, step in stored} == set(range(1, AT + 1))
    assert set(stored) == produced(tmp_path)
    assert set(stored.values()) == {1}
    assert tags(place)["rldk.status"] == "crashed"


@pytest.mark.parametrize("how", ["kill", "term"])
def test_killed(place: dict[str, Any], tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In the first instant of a step, when the row of the one before may still be being computed."""
    done = start(**place, end=how, at=AT)
    assert steps_said(done) == list(range(1, AT + 1)), done.stderr[-3000:]
    assert tags(place).get("rldk.status", "running") == "running"
    assert main(["sync", str(tmp_path)]) == 0
    assert f"was killed after step {AT}" in capsys.readouterr().out
    stored = stored_in_mlflow(place["tracking_uri"], place["run_id"])
    check_every_step(stored, tmp_path)
    assert tags(place)["rldk.status"] == "crashed"
    assert int(tags(place)["rldk.step"]) == AT
    assert not list(tmp_path.rglob("undelivered-*"))
    assert main(["sync", str(tmp_path)]) == 0


READ_AHEAD = ("rldk/reward/", "rldk/length/", "rldk/kl/", "rldk/policy/", "rldk/advantage/", "rldk/diversity/")
"""What is read of a rollout while the step's last backward pass lasts."""


def test_killed_after_a_backward_pass_as_long_as_a_models(place: dict[str, Any], tmp_path: Path) -> None:
    """All that there is of the rollout is known when the step ends, and survives a kill in the next one's beginning."""
    done = start(**place, end="kill", at=AT, backward=0.1)
    assert steps_said(done) == list(range(1, AT + 1)), done.stderr[-3000:]
    assert main(["sync", str(tmp_path)]) == 0
    stored = stored_in_mlflow(place["tracking_uri"], place["run_id"])
    before, last = ({key for key, at in stored if at == step and key.startswith(READ_AHEAD)} for step in (AT - 1, AT))
    assert len(last) >= 30 and last == before
    assert {key for key, at in stored if at == AT} >= KNOWN_AT_ONCE
    assert set(stored.values()) == {1}


def test_killed_without_a_tracker(tmp_path: Path) -> None:
    done = start(folder=str(tmp_path), end="kill", at=AT)
    assert steps_said(done) == list(range(1, AT + 1)), done.stderr[-3000:]
    for known in KNOWN_AT_ONCE:
        assert {step for key, step in produced(tmp_path) if key == known} == set(range(1, AT + 1))


@pytest.mark.parametrize("how", ["exception", "interrupt"])
def test_ended_by_an_exception(place: dict[str, Any], tmp_path: Path, how: str) -> None:
    done = start(**place, end=how, at=AT)
    assert done.returncode != 0
    stored = stored_in_mlflow(place["tracking_uri"], place["run_id"])
    assert {step for _, step in stored} == set(range(1, AT + 1)), done.stderr[-3000:]
    assert set(stored) == produced(tmp_path)
    assert set(stored.values()) == {1}
    assert tags(place)["rldk.status"] == "crashed"
    assert tags(place)["rldk.heartbeat"]
    assert not list(tmp_path.rglob("undelivered-*"))
    # The exception is the training's own.
    expected = {"exception": "the training failed", "interrupt": "KeyboardInterrupt"}
    assert expected[how] in done.stderr


def test_killed_while_the_server_is_down(backend: Backend, tmp_path: Path) -> None:
    backend.proxy.status = 503
    done = start(folder=str(tmp_path), tracking_uri=backend.proxy.url, run_id=backend.run_id, end="kill", at=AT)
    assert steps_said(done) == list(range(1, AT + 1)), done.stderr[-3000:]
    assert stored_in_mlflow(backend.store, backend.run_id) == {}
    backend.proxy.status = None
    assert main(["sync", str(tmp_path)]) == 0
    check_every_step(stored_in_mlflow(backend.store, backend.run_id), tmp_path)
    assert backend.tags()["rldk.status"] == "crashed"


def test_killed_beside_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline, W&B's log of the first process and that of `sync` make one whole."""
    wandb = pytest.importorskip("wandb")
    from tests.trackers.wandb_log import load

    monkeypatch.setenv("WANDB_MODE", "offline")
    start(folder=str(tmp_path), wandb_id="killed01", end="kill", at=AT)
    assert main(["sync", str(tmp_path)]) == 0
    wandb.teardown()
    logs = [load(path) for path in sorted(tmp_path.rglob("*.wandb"))]
    steps = [step for log in logs for step, _ in log.series("rldk/alerts/firing")]
    assert sorted(steps) == sorted({step for key, step in produced(tmp_path) if key == "rldk/alerts/firing"})
    losses = [step for log in logs for step, _ in log.series("rldk/train/loss")]
    assert sorted(losses) == list(range(1, AT + 1))
    assert logs[-1].summary["rldk/status"] == "crashed"
