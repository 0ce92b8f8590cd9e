"""A machine that gives no process, no thread, no disk: training goes on, one warning, and what is lost is counted."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rldk_tracking.cli.main import main
from rldk_tracking.trackers.mlflow import MLflowTracker
from tests.faults.bench import is_delivered, offsets
from tests.faults.broken_disks import mounted
from tests.faults.processes import ROOT, start, wait_for
from tests.faults.scenario import Count, Outcome, count, records, stored_in_mlflow, train

STEPS = 12
WHOLE = Count(STEPS, STEPS, 0, 0)


@pytest.fixture
def store(empty_store: Path, tmp_path: Path) -> tuple[str, MLflowTracker]:
    """A store, and a tracker of a run in it."""
    import mlflow

    shutil.copy(empty_store, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    run_id = mlflow.MlflowClient(tracking_uri=uri).create_run("0").info.run_id
    return uri, MLflowTracker(run_id=run_id, tracking_uri=uri)


def found(store: tuple[str, MLflowTracker], outcome: Outcome) -> Count:
    uri, tracker = store
    return count(outcome, stored_in_mlflow(uri, str(tracker.run_id)))


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the journal and its courier have to say."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.WARNING and record.name.startswith("rldk_tracking.journal")
    ]


class NoProcess:
    """In the place of `subprocess.Popen`, in a container that gives no more processes."""

    def __init__(self, *_: Any, **__: Any) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")


def test_no_process_is_to_be_had(
    store: tuple[str, MLflowTracker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("rldk_tracking.journal.process.subprocess.Popen", NoProcess)
    outcome = train(tmp_path, [store[1]], {}, STEPS)
    assert found(store, outcome) == WHOLE
    (said,) = warnings(caplog)
    assert "in a thread of the training instead" in said


def test_neither_process_nor_thread(
    store: tuple[str, MLflowTracker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start_of = threading.Thread.start

    def refuse(self: threading.Thread) -> None:
        if self.name.startswith("rldk"):
            raise RuntimeError("can't start new thread")
        start_of(self)

    monkeypatch.setattr("rldk_tracking.journal.process.subprocess.Popen", NoProcess)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    outcome = train(tmp_path, [store[1]], {}, STEPS)
    assert found(store, outcome) == Count(STEPS, 0, STEPS, 0)
    assert [text.split(" can be started")[0] for text in warnings(caplog)] == ["No process", "No thread"]
    monkeypatch.undo()
    # This process, which is the training's, lives still; `sync` is called from another.
    command = [sys.executable, "-m", "rldk_tracking.cli.main", "sync", str(tmp_path), "--tracking-uri", store[0]]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert "is running" in done.stdout


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 32 KiB: some rows go in."""
    try:
        with mounted(tmp_path / "disk", "size=32k") as place:
            yield place
    except (subprocess.CalledProcessError, FileNotFoundError):
        pytest.skip("this user may mount nothing")


def test_a_full_disk(
    store: tuple[str, MLflowTracker], tmp_path: Path, small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outcome = train(tmp_path, [store[1]], {}, STEPS, output_dir=str(small_disk))
    assert found(store, outcome) == WHOLE
    first, last = warnings(caplog)
    assert "No space left on device" in first
    written = [record for record in records(small_disk / "run.jsonl") if record["type"] == "metrics"]
    assert 0 < len(written) < STEPS
    lost = int(last.split(" records could not be written")[0])
    assert lost >= STEPS - len(written)


def test_a_folder_in_which_nothing_can_be_written(
    store: tuple[str, MLflowTracker], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "_rldk").write_text("in the way")
    outcome = train(tmp_path, [store[1]], {}, STEPS)
    assert found(store, outcome) == WHOLE
    first, last = warnings(caplog)
    assert "cannot be written" in first
    assert "records could not be written" in last


def test_a_folder_that_is_deleted_in_mid_run(
    store: tuple[str, MLflowTracker], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "journals"

    def delete() -> None:
        assert wait_for(lambda: offsets(folder / "run.jsonl")["mlflow"].position > 0, 60)
        shutil.rmtree(folder)

    outcome = train(tmp_path, [store[1]], {STEPS // 2: delete}, STEPS, output_dir=str(folder))
    assert wait_for(lambda: is_delivered(folder), 60)
    assert found(store, outcome) == WHOLE
    assert warnings(caplog) == []
    kinds = [record["type"] for record in records(folder / "run.jsonl")]
    assert kinds[:2] == ["begin", "destination"]
    assert kinds[-1] == "end"


def test_children_that_a_reward_function_forks_are_no_training(
    store: tuple[str, MLflowTracker], tmp_path: Path
) -> None:
    """A sandbox for code leaves by sys.exit, and so runs the exit handlers that it inherited."""
    uri, tracker = store
    done = start(folder=str(tmp_path), tracking_uri=uri, run_id=tracker.run_id, steps=5, forks=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("a child leaves") == 5
    for journal in (tmp_path / "_rldk" / "run.jsonl", tmp_path / "produced" / "run.jsonl"):
        statuses = [record["status"] for record in records(journal) if record["type"] == "status"]
        assert "crashed" not in statuses
        assert statuses[-1] == "finished"
        assert [r["step"] for r in records(journal) if r["type"] == "metrics"] == [1, 2, 3, 4, 5]
    stored = stored_in_mlflow(uri, str(tracker.run_id))
    assert sorted(step for key, step in stored if key == "rldk/reward/mean") == [1, 2, 3, 4, 5]
    assert set(stored.values()) == {1}
    assert main(["sync", str(tmp_path)]) == 0
