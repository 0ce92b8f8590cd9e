"""What the lines of `table.py` share: one MLflow server, a proxy before it, a new run and folder for each training."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import signal
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rldk_tracking.cli.main import main as command_line
from rldk_tracking.trackers.base import Tracker
from rldk_tracking.trackers.mlflow import MLflowTracker
from tests.faults.proxy import DistantProxy
from tests.faults.scenario import Outcome, count, stored_in_mlflow, train
from tests.trackers.conftest import Server


@dataclass(frozen=True)
class Line:
    """One row of the table.

    Attributes:
        drafts: rows in the store that are what was known of a step when its process was killed.
        refused: writes that the tracker refused up to the last step; 0 says that the fault was none, or only slow. None
            where nobody was there to count.
        stall: milliseconds of the longest step.
        own: the same without waiting for a processor that others held.
        end: seconds at train end.
    """

    fault: str
    steps: int
    produced: int
    stored: int
    drafts: int
    lost: int
    doubled: int
    refused: int | None = None
    stall: float | None = None
    own: float | None = None
    end: float | None = None


class Bench:
    """A fault begins after a tenth of the training and ends after seven tenths. A step waits `pause` seconds itself."""

    def __init__(self, place: Path, steps: int, pause: float = 0.0) -> None:
        import mlflow

        self.place, self.steps, self.pause = place, steps, pause
        self.begin, self.end = max(1, steps // 10), 7 * steps // 10
        self.database = place / "mlflow.db"
        self.client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{self.database}")
        self.client.search_experiments()
        self.empty = place / "empty.db"
        shutil.copy(self.database, self.empty)
        self.server = Server(place)
        self.server.start()
        self.proxy = DistantProxy(self.server.uri)
        self.number = 0

    def close(self) -> None:
        """End the processes."""
        self.proxy.close()
        self.server.signal(signal.SIGCONT)
        self.server.kill()

    def folder(self) -> Path:
        """A new one."""
        self.number += 1
        folder = self.place / f"training-{self.number}"
        folder.mkdir()
        return folder

    def new(self) -> tuple[Path, str]:
        """A folder and a run on the server."""
        return self.folder(), self.client.create_run("0").info.run_id

    def own_store(self) -> tuple[Path, str, str]:
        """A folder, a run, and the sqlite store in that folder which holds it."""
        import mlflow

        folder = self.folder()
        shutil.copy(self.empty, folder / "mlflow.db")
        store = f"sqlite:///{folder / 'mlflow.db'}"
        return folder, mlflow.MlflowClient(tracking_uri=store).create_run("0").info.run_id, store

    def train(
        self, folder: Path, trackers: list[Tracker], doings: dict[int, Callable[[], Any]], **options: Any
    ) -> Outcome:
        """A training of as many steps as every line has, as fast as they are."""
        outcome: Outcome = quietly(lambda: train(folder, trackers, doings, self.steps, self.pause, **options))
        return outcome

    def during(self, fault: str, begin: Callable[[], Any], end: Callable[[], Any], direct: bool = False) -> Line:
        """A fault of the server for a while; `direct` leaves the proxy out."""
        folder, run_id = self.new()
        uri = self.server.uri if direct else self.proxy.url
        doings = {self.begin: begin, self.end: end}
        outcome = self.train(folder, [MLflowTracker(run_id=run_id, tracking_uri=uri)], doings)
        end()
        return self.line(fault, outcome, folder, run_id)

    def answers(self, fault: str, status: int | None = None, delay: float = 0.0) -> Line:
        """A server that answers so for a while."""
        return self.during(fault, lambda: self.proxy.tell(status, delay), self.proxy.tell)

    def throughout(self, fault: str, status: int) -> Line:
        """A fault from the first to the last step; over when training is."""
        folder, run_id = self.new()
        self.proxy.tell(status)
        tracker = MLflowTracker(run_id=run_id, tracking_uri=self.proxy.url)
        outcome = self.train(folder, [tracker], {})
        self.proxy.tell()
        return self.line(fault, outcome, folder, run_id)

    def restart(self) -> None:
        """Start the server beside the training, whose step must not wait for that."""
        if self.server.process is not None and self.server.process.poll() is not None:
            threading.Thread(target=self.server.start).start()

    def line(self, fault: str, outcome: Outcome, folder: Path, run_id: str, store: str | None = None) -> Line:
        """Send what was left, and count."""
        if list(folder.rglob("undelivered-*")):
            quietly(lambda: command_line(["sync", str(folder), "--timeout", "60"]))
        found = count(outcome, stored_in_mlflow(store or f"sqlite:///{self.database}", run_id))
        line = Line(fault, outcome.steps, **vars(found))
        if not outcome.stalls:
            return line
        timed = {
            "refused": outcome.refused,
            "stall": outcome.longest_stall(),
            "own": outcome.longest_stall(own=True),
            "end": outcome.end,
        }
        return Line(**(vars(line) | timed))


def quietly(work: Callable[[], Any]) -> Any:
    """Without the progress bars and log lines of trainers."""
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return work()
    finally:
        logging.disable(logging.NOTSET)


def locked(path: Path) -> sqlite3.Connection:
    """A connection that can lock a store from whatever thread."""
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False)
