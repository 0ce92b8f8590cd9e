"""MLflow fails in the middle of a real training, in every way that a server can. The training does not feel it."""

from __future__ import annotations

import logging
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
from tests.faults.bench import is_delivered, offsets
from tests.faults.channel import Channel
from tests.faults.conftest import Backend
from tests.faults.processes import couriers, wait_for
from tests.faults.scenario import Count, Outcome, count, stored_in_mlflow, train

STEPS = 24
BROKEN = range(6, 17)
WAIT_MS = 10.0


def settled(backend: Backend, outcome: Outcome, folder: Path) -> Count:
    assert wait_for(lambda: is_delivered(folder), 60)
    return count(outcome, stored_in_mlflow(backend.store, backend.run_id))


def wait_by_fault(outcome: Outcome) -> float:
    """Milliseconds that a step waits longer for us while the server is broken than before and after."""
    waits = outcome.own_waits
    healthy = [seconds for step, seconds in waits.items() if step > 1 and step not in BROKEN]
    return 1000 * (median(waits[step] for step in BROKEN) - median(healthy))


def fail(backend: Backend, **changes: Any) -> Callable[[], None]:
    def change() -> None:
        vars(backend.proxy).update(changes)

    return change


@pytest.mark.parametrize(
    "changes",
    [{"status": 500}, {"status": 403}, {"delay": 2.0}],
    ids=lambda c: str(next(iter(c.items()))),
)
def test_a_server_that_fails_for_a_while(backend: Backend, tmp_path: Path, changes: dict[str, Any]) -> None:
    tracker = MLflowTracker(run_id=backend.run_id, tracking_uri=backend.proxy.url)
    begin = {5: fail(backend, **changes), 17: fail(backend, status=None, delay=0.0)}
    outcome = train(tmp_path, [tracker], begin, STEPS)
    assert settled(backend, outcome, tmp_path) == Count(STEPS, STEPS, 0, 0)
    assert wait_by_fault(outcome) < WAIT_MS
    assert backend.tags()["rldk.status"] == "finished"


def test_a_server_that_is_gone_from_the_start_to_after_the_end(
    backend: Backend, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker, channel = MLflowTracker(run_id=backend.run_id, tracking_uri=backend.proxy.url), Channel()
    backend.proxy.status = 503
    slack = SlackNotifier(channel.url, allow_loopback=True)
    journal = tmp_path / "_rldk" / "run.jsonl"
    noticed: dict[int, Callable[[], Any]] = {
        5: lambda: wait_for(lambda: offsets(journal)["mlflow"].down_since, 60),
        6: lambda: time.sleep(2.5),  # offsets are looked at every two seconds
    }
    with caplog.at_level(logging.INFO):
        outcome = train(tmp_path, [tracker, slack], noticed, STEPS)
    assert outcome.end is not None
    assert outcome.end < 6, "a server that does not answer gets 3 s"
    assert any(str(journal) in record.getMessage() for record in caplog.records), "where to find what is missing"
    assert journal.stat().st_mode & 0o777 == 0o600
    assert stored_in_mlflow(backend.store, backend.run_id) == {}
    assert any(alert.rule == "tracker.down" for alert in outcome.callback.alerts)
    assert wait_for(lambda: channel.titles("tracker.down"), 30), "people hear of it"
    channel.close()
    # `sync` leaves it to the courier, which has not given up.
    assert main(["sync", str(tmp_path), "--timeout", "1"]) == 0
    backend.proxy.status = None
    assert settled(backend, outcome, tmp_path) == Count(STEPS, STEPS, 0, 0)
    assert backend.tags()["rldk.status"] == "finished"
    assert main(["sync", str(tmp_path)]) == 0


def test_a_server_that_hangs_and_comes_back(backend: Backend, tmp_path: Path) -> None:
    tracker = MLflowTracker(run_id=backend.run_id, tracking_uri=backend.server.uri)
    doings = {5: lambda: backend.server.signal(signal.SIGSTOP), 17: lambda: backend.server.signal(signal.SIGCONT)}
    outcome = train(tmp_path, [tracker], doings, STEPS)
    assert settled(backend, outcome, tmp_path) == Count(STEPS, STEPS, 0, 0)
    assert wait_by_fault(outcome) < WAIT_MS


def test_the_courier_is_killed_and_nothing_is_doubled(backend: Backend, tmp_path: Path) -> None:
    tracker = MLflowTracker(run_id=backend.run_id, tracking_uri=backend.proxy.url)
    killed = []

    def kill() -> None:
        wait_for(lambda: couriers(tmp_path), 60)
        for process in couriers(tmp_path):
            killed.append(process.pid)
            process.kill()

    outcome = train(tmp_path, [tracker], {12: kill}, STEPS)
    assert settled(backend, outcome, tmp_path) == Count(STEPS, STEPS, 0, 0)
    assert len(killed) == 1
