"""A training that goes on from a checkpoint: every step once, every alert once, judged as if nothing had happened."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rldk_tracking.callback import RLDKCallback
from rldk_tracking.demo.trainers import grpo_trainer
from rldk_tracking.trackers.jsonl import JsonlTracker
from rldk_tracking.trackers.memory import InMemoryTracker
from rldk_tracking.trackers.mlflow import MLflowTracker
from tests.faults.bench import is_delivered, journals
from tests.faults.processes import start, steps_said, wait_for
from tests.faults.scenario import records, stored_in_mlflow
from tests.trackers.wandb_backend import WandbBackend

# Fires at the first gradient and stays.
ALWAYS = {"grad.explosion": {"threshold": 0.0, "persistence": (1, 1), "warm_up_steps": 0}}


@pytest.fixture
def store(empty_store: Path, tmp_path: Path) -> str:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def new_run(uri: str) -> str:
    import mlflow

    return str(mlflow.MlflowClient(tracking_uri=uri).create_run("0").info.run_id)


def train(folder: Path, trackers: list[Any], steps: int, resume: str | None = None, **config: Any) -> RLDKCallback:
    callback = RLDKCallback(trackers=trackers, overrides=ALWAYS)
    saving = {"save_strategy": "steps", "save_steps": 3, "restore_callback_states_from_checkpoint": False}
    trainer = grpo_trainer(folder, max_steps=steps, callbacks=[callback], **(saving | config))
    trainer.train(resume_from_checkpoint=resume)
    assert [type(c).__name__ for c in trainer.callback_handler.callbacks].count("RLDKCallback") == 1
    return callback


@pytest.mark.parametrize("restore", [False, True], ids=["plain", "restore_callback_states"])
def test_from_an_older_checkpoint(store: str, tmp_path: Path, restore: bool) -> None:
    run_id, memory, folder = new_run(store), InMemoryTracker(), tmp_path / "out"

    def trackers() -> list[Any]:
        return [memory, JsonlTracker(tmp_path / "rows"), MLflowTracker(run_id=run_id, tracking_uri=store)]

    first = train(folder, trackers(), 8)
    fired = [(a.rule, a.state) for a in first.alerts]
    assert ("grad.explosion", "firing") in fired
    second = train(
        folder, trackers(), 12, str(folder / "checkpoint-3"), restore_callback_states_from_checkpoint=restore
    )
    # Steps 4 to 8 were made twice and are stored once.
    every = [(step, 1) for step in range(1, 13)]
    counts = Counter(step for step, _ in memory.series["rldk/reward/mean"])
    assert sorted(counts.items()) == every
    written = records(tmp_path / "rows" / "run.jsonl")
    rows = [r["step"] for r in written if r["type"] == "metrics" and "rldk/reward/mean" in r["metrics"]]
    assert rows == list(range(1, 13))
    stored = Counter({k: n for k, n in stored_in_mlflow(store, run_id).items() if k[0] == "rldk/reward/mean"})
    assert sorted((step, n) for (_, step), n in stored.items()) == every
    told = Counter((a.rule, a.state) for a in memory.alerts)
    assert told["grad.explosion", "firing"] == 1
    assert second.run is not None, "whoever made the callback sees the run"
    assert second.run.judge is not None
    (still,) = [a for a in second.run.judge.engine.firing if a.rule == "grad.explosion"]
    assert still.first_step == 1, "the alert began before the checkpoint"
    assert not any(a.rule == "grad.explosion" for a in second.alerts)


def test_an_alert_of_the_part_that_is_made_again_is_told_once(tmp_path: Path) -> None:
    memory, folder = InMemoryTracker(), tmp_path / "out"
    late = {"grad.explosion": {"threshold": 0.0, "persistence": (6, 6), "warm_up_steps": 0}}
    for steps, resume in ((8, None), (12, str(folder / "checkpoint-3"))):
        callback = RLDKCallback(trackers=[memory], overrides=late)
        trainer = grpo_trainer(folder, max_steps=steps, callbacks=[callback], save_strategy="steps", save_steps=3)
        trainer.train(resume_from_checkpoint=resume)
        # Judged in both trainings, from a count that goes on at the checkpoint.
        assert [(a.step, a.state) for a in callback.alerts if a.rule == "grad.explosion"] == [(6, "firing")]
    assert [(a.step, a.state) for a in memory.alerts if a.rule == "grad.explosion"] == [(6, "firing")]


def test_into_the_run_that_mlflow_is_told(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As people do it: `report_to`, MLFLOW_RUN_ID, and a checkpoint that is older than what the run holds."""
    run_id, folder = new_run(store), tmp_path / "out"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    for steps, resume in ((6, None), (9, str(folder / "checkpoint-3"))):
        monkeypatch.setenv("MLFLOW_RUN_ID", run_id)  # which MLflow takes out of the environment
        callback = RLDKCallback()
        saving = {"save_strategy": "steps", "save_steps": 3, "report_to": "mlflow"}
        grpo_trainer(folder, max_steps=steps, callbacks=[callback], **saving).train(resume_from_checkpoint=resume)
    stored = stored_in_mlflow(store, run_id)
    assert sorted(step for key, step in stored if key == "rldk/reward/mean") == list(range(1, 10))
    assert [key for (key, _), times in stored.items() if times > 1] == []


def test_into_the_same_run_of_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline, each process leaves a log of its own; together they are the run."""
    wandb = pytest.importorskip("wandb")
    from tests.trackers.wandb_log import load

    folder = tmp_path / "out"
    values = {"WANDB_MODE": "offline", "WANDB_RUN_ID": "resumed1", "WANDB_RESUME": "allow", "WANDB_DIR": str(tmp_path)}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    for steps, resume in ((3, None), (6, str(folder / "checkpoint-3"))):
        callback = RLDKCallback()
        saving = {"save_strategy": "steps", "save_steps": 3, "report_to": "wandb"}
        grpo_trainer(folder, max_steps=steps, callbacks=[callback], **saving).train(resume_from_checkpoint=resume)
        wandb.finish()
    logs = [load(path) for path in sorted(tmp_path.rglob("*.wandb"))]
    assert len(logs) == 2
    assert [step for log in logs for step, _ in log.series("rldk/reward/mean")] == list(range(1, 7))


@pytest.fixture
def wandb_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbBackend]:
    pytest.importorskip("wandb")
    server = WandbBackend()
    values = {"MODE": "online", "BASE_URL": server.url, "API_KEY": "x" * 40, "RESUME": "allow", "DIR": str(tmp_path)}
    for name, value in values.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    yield server
    server.close()


def test_killed_and_resumed_into_the_run_that_wandb_keeps(wandb_server: WandbBackend, tmp_path: Path) -> None:
    """W&B sends rows every few seconds, and what it has not sent when it is killed it never sends."""
    killed = start(folder=str(tmp_path), wandb_id="resumed2", end="kill", at=8, save_steps=3)
    assert steps_said(killed) == list(range(1, 9)), killed.stderr[-2000:]
    held = len(wandb_server.rows)
    done = start(
        folder=str(tmp_path), wandb_id="resumed2", steps=12, save_steps=3, resume=str(tmp_path / "checkpoint-6")
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(wandb_server.rows) > held
    rows = [row for row in wandb_server.rows if "rldk/reward/mean" in row]
    assert [row["train/global_step"] for row in rows] == list(range(1, 13))


def test_a_checkpoint_of_a_training_without_us(tmp_path: Path) -> None:
    """transformers would raise a KeyError at the next save."""
    folder, memory = tmp_path / "out", InMemoryTracker()
    saving = {"save_strategy": "steps", "save_steps": 2}
    grpo_trainer(folder, max_steps=2, **saving).train()
    trainer = grpo_trainer(folder, max_steps=5, callbacks=[RLDKCallback(trackers=[memory])], **saving)
    trainer.train(resume_from_checkpoint=str(folder / "checkpoint-2"))
    assert [step for step, _ in memory.series["rldk/reward/mean"]] == [3, 4, 5]
    state = json.loads((folder / "checkpoint-4" / "trainer_state.json").read_text())
    assert state["stateful_callbacks"]["RLDKCallback"]["attributes"]["resume"]["version"]


def test_two_callbacks_do_not_make_the_state_grow(tmp_path: Path) -> None:
    memory = InMemoryTracker()
    callbacks = [RLDKCallback(trackers=[memory]), RLDKCallback(trackers=[memory])]
    grpo_trainer(tmp_path, max_steps=4, callbacks=callbacks, save_strategy="steps", save_steps=1).train()
    assert [step for step, _ in memory.series["rldk/reward/mean"]] == [1, 2, 3, 4]
    sizes = [len((tmp_path / f"checkpoint-{n}" / "trainer_state.json").read_text()) for n in (2, 4)]
    assert sizes[1] < 1.5 * sizes[0]


def test_a_state_that_cannot_be_read_starts_afresh(tmp_path: Path) -> None:
    folder, memory = tmp_path / "out", InMemoryTracker()
    train(folder, [memory], 3)
    path = folder / "checkpoint-3" / "trainer_state.json"
    state = json.loads(path.read_text())
    state["stateful_callbacks"]["RLDKCallback"] = {"args": {}, "attributes": {"resume": {"version": 99, "rules": 7}}}
    path.write_text(json.dumps(state))
    train(folder, [memory], 5, str(folder / "checkpoint-3"))
    assert [step for step, _ in memory.series["rldk/reward/mean"]] == [1, 2, 3, 4, 5]


def test_killed_and_resumed_in_a_new_process(store: str, tmp_path: Path) -> None:
    place: dict[str, Any] = {"folder": str(tmp_path), "tracking_uri": store, "run_id": new_run(store)}
    place["overrides"] = ALWAYS
    killed = start(**place, end="kill", at=8, save_steps=3)
    assert steps_said(killed) == list(range(1, 9)), killed.stderr[-2000:]
    done = start(**place, steps=12, save_steps=3, resume=str(tmp_path / "checkpoint-6"))
    assert done.returncode == 0, done.stderr[-2000:]
    assert steps_said(done) == list(range(7, 13))
    assert wait_for(lambda: is_delivered(tmp_path), 60)
    stored = stored_in_mlflow(store, place["run_id"])
    assert [key for (key, _), times in stored.items() if times > 1] == []
    assert sorted(step for key, step in stored if key == "rldk/reward/mean") == list(range(1, 13))
    told = [
        r
        for r in records(tmp_path / "produced" / "run.jsonl")
        if r["type"] == "alert" and r["rule"] == "grad.explosion"
    ]
    assert [(r["step"], r["state"]) for r in told] == [(1, "firing")]
    # Both trainings are one journal.
    (journal,) = journals(tmp_path)
    kinds = [record["type"] for record in records(journal)]
    assert (kinds.count("begin"), kinds.count("end")) == (2, 1)
    rows = [r for r in records(journal) if r["type"] == "metrics" and "rldk/reward/mean" in r["metrics"]]
    assert [row["step"] for row in rows] == list(range(1, 13))
