"""The artifact of each checkpoint, in the log that W&B itself writes of an offline run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import TrainingArguments

from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.wandb import WandbTracker
from rldk_tracking.trackers.wandb_models import FILE, TYPE, uploaded
from tests.trackers.wandb_log import load_finished, messages

wandb = pytest.importorskip("wandb", reason="needs wandb")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("WANDB_DIR", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb.teardown()
    yield wandb.init(project="p", name="given")
    wandb.finish()
    wandb.teardown()


def artifacts(folder: Path) -> list[Any]:
    """What the run's log says of artifacts."""
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.finish()
    wandb.teardown()
    load_finished(folder)  # which waits for the log's end
    (log,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    found = []
    for data in messages(log.read_bytes()):
        record = Record.FromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "artifact":
            found.append(record.artifact)
        elif kind == "request" and record.request.WhichOneof("request_type") == "log_artifact":
            found.append(record.request.log_artifact.artifact)
    return found


def test_each_checkpoint_is_a_version_without_weights(run: Any, tmp_path: Path) -> None:
    tracker = WandbTracker()
    tracker.open(RunInfo())
    for step, score in ((100, 1.0), (200, 0.5)):
        metrics = {"rldk/checkpoint/score": score, "rldk/checkpoint/part/finite": 1.0}
        facts = {"verdict": "healthy", "path": f"out/checkpoint-{step}"}
        tracker.log_checkpoint(f"checkpoint-{step}", metrics, facts, step)
    tracker.close()
    run_id = run.id
    found = artifacts(tmp_path)
    assert [set(artifact.aliases) for artifact in found] == [{"latest", "checkpoint-100"}, {"latest", "checkpoint-200"}]
    assert {(artifact.name, artifact.type) for artifact in found} == {(f"checkpoint-health-{run_id}", TYPE)}
    metadata = [json.loads(artifact.metadata) for artifact in found]
    assert [held["score"] for held in metadata] == [1.0, 0.5]
    assert metadata[0] == {
        "step": 100,
        "verdict": "healthy",
        "path": "out/checkpoint-100",
        "score": 1.0,
        "part_finite": 1.0,
    }
    files = [{entry.path: entry.size for entry in artifact.manifest.contents} for artifact in found]
    assert all(set(held) == {FILE} and held[FILE] < 1000 for held in files)
    assert len({artifact.digest for artifact in found}) == 2, "two with one digest would be one version"


def test_it_names_the_artifact_that_transformers_makes(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real WandbCallback saves; its artifact is the one that ours names."""
    from transformers import TrainerControl, TrainerState
    from transformers.integrations import WandbCallback

    monkeypatch.setenv("WANDB_LOG_MODEL", "checkpoint")
    folder = tmp_path / "out" / "checkpoint-20"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    state = TrainerState(global_step=20, epoch=1.0)
    callback = WandbCallback()
    callback._initialized = True
    named = []
    for run_name in (None, "given"):
        args = TrainingArguments(str(tmp_path / "out"), run_name=run_name, report_to=[], use_cpu=True)
        callback.on_save(args, state, TrainerControl())
        named.append(uploaded(run, args, 20))
    for name, artifact in zip(named, artifacts(tmp_path), strict=True):
        assert name in {f"{artifact.name}:{alias}" for alias in artifact.aliases}


def test_without_uploads_no_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = SimpleNamespace(id="1", name="given")
    args = TrainingArguments(str(tmp_path), report_to=[], use_cpu=True)
    for setting in ("false", "end"):
        monkeypatch.setenv("WANDB_LOG_MODEL", setting)
        assert uploaded(run, args, 20) is None
    monkeypatch.setenv("WANDB_LOG_MODEL", "checkpoint")
    assert uploaded(run, None, 20) is None
