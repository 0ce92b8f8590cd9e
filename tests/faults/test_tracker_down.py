"""MLflow fails in the middle of a real training, in every way that a server can."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from rldk_tracking.cli.main import main
from rldk_tracking.trackers.mlflow import MLflowTracker
from rldk_tracking.trackers.slack import SlackNotifier
from rldk_tracking.trackers.spool import Spool
from tests.faults.conftest import Backend
from tests.faults.scenario import Count, Outcome, count, stored_in_mlflow, train
from tests.trackers.test_slack import Webhook
from tests.trackers.test_slack_message import texts

STEPS = 24
BROKEN = range(6, 17)
STALL_MS = 10.0


def settled(backend: Backend, outcome: Outcome) -> Count:
    return count(outcome, stored_in_mlflow(backend.store, backend.run_id))


def stall_by_fault(outcome: Outcome) -> float:
    """Milliseconds that a step waits longer for us while the server is broken than before and after."""
    healthy = [seconds for step, seconds in outcome.stalls.items() if step > 1 and step not in BROKEN]
    return 1000 * (median(outcome.stalls[step] for step in BROKEN) - median(healthy))


def fail(backend: Backend, **changes: Any) -> Callable[[], None]:
    def change() -> None:
        vars(backend.proxy).update(changes)

    return change


@pytest.mark.parametrize(
    "changes",
    [{"status": 500}, {"status": 429}, {"status": 403}, {"delay": 2.0}],
    ids=lambda c: str(next(iter(c.items()))),
)
def test_a_server_that_fails_for_a_while(backend: Backend, tmp_path: Path, changes: dict[str, Any]) -> None:
    tracker = MLflowTracker(run_id=backend.run_id, tracking_uri=backend.proxy.url)
    begin = {5: fail(backend, **changes), 17: fail(backend, status=None, delay=0.0)}
    outcome = train(tmp_path, [tracker], begin, STEPS)
    assert settled(backend, outcome) == Count(STEPS, STEPS, 0, 0, 0)
    assert stall_by_fault(outcome) < STALL_MS
    assert not list(tmp_path.rglob("undelivered-*"))
    assert backend.tags()["rldk.status"] == "finished"


def test_a_server_that_is_gone_from_the_start_and_for_good(
    backend: Backend, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker, webhook = MLflowTracker(run_id=backend.run_id, tracking_uri=backend.proxy.url), Webhook()
    backend.proxy.status = 503
    slack = SlackNotifier(webhook.url, allow_loopback=True)
    outcome = train(tmp_path, [tracker, slack], {}, STEPS)
    webhook.close()
    assert outcome.end < 17
    # People hear of it, and where to find what is missing.
    assert any("tracker.down" in text for message in webhook.messages for text in texts(message))
    assert any("undelivered-mlflow.jsonl" in record.getMessage() for record in caplog.records)
    (spool,) = tmp_path.rglob("undelivered-mlflow.jsonl")
    assert spool.stat().st_mode & 0o777 == 0o600
    assert settled(backend, outcome) == Count(STEPS, 0, 0, STEPS, 0)
    assert any(alert.rule == "tracker.down" for alert in outcome.callback.alerts)
    # Not yet back.
    assert main(["sync", str(tmp_path), "--timeout", "1"]) == 1
    assert spool.exists()
    backend.proxy.status = None
    assert main(["sync", str(tmp_path)]) == 0
    assert settled(backend, outcome) == Count(STEPS, STEPS, 0, 0, 0)
    assert backend.tags()["rldk.status"] == "finished"
    assert not spool.exists()
    assert main(["sync", str(tmp_path)]) == 0


def test_a_server_that_hangs_and_comes_back(backend: Backend, tmp_path: Path) -> None:
    tracker = MLflowTracker(run_id=backend.run_id, tracking_uri=backend.server.uri)
    doings = {5: lambda: backend.server.signal(signal.SIGSTOP), 17: lambda: backend.server.signal(signal.SIGCONT)}
    outcome = train(tmp_path, [tracker], doings, STEPS)
    assert settled(backend, outcome) == Count(STEPS, STEPS, 0, 0, 0)
    assert stall_by_fault(outcome) < STALL_MS


def test_a_folder_that_cannot_be_written(backend: Backend, tmp_path: Path) -> None:
    (tmp_path / "rldk").write_text("in the way")
    tracker = MLflowTracker(run_id=backend.run_id, tracking_uri=backend.proxy.url)
    outcome = train(tmp_path, [tracker], {}, 10)
    assert settled(backend, outcome) == Count(10, 10, 0, 0, 0)


def test_sync_leaves_a_running_training_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spool = Spool(tmp_path / "rldk" / "undelivered-mlflow.jsonl", "mlflow")
    spool.append([{"type": "metrics", "step": 1, "time": time.time(), "metrics": {"a": 1.0}}])
    assert main(["sync", str(tmp_path)]) == 0
    assert "is running" in capsys.readouterr().out
    spool.close()
