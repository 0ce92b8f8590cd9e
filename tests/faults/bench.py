"""What the lines of `table.py` share: one MLflow server, a proxy before it, a new run and folder for each training."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import shutil
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from rldk_tracking.cli.main import main as command_line
from rldk_tracking.journal.offset import Offset, offset_path
from rldk_tracking.journal.reader import FileLines, read_all
from rldk_tracking.trackers.base import Tracker
from rldk_tracking.trackers.mlflow import MLflowTracker
from tests.faults.channel import Channel
from tests.faults.processes import couriers, wait_for
from tests.faults.proxy import DistantProxy
from tests.faults.scenario import Outcome, count, stored_in_mlflow, train
from tests.trackers.conftest import Server

DELIVERY_S = 60.0
"""For so long a line waits until the courier is through."""


@dataclass(frozen=True)
class Line:
    """One row of the table.

    Attributes:
        fault: in words.
        steps: that the training finished.
        produced, stored, lost, doubled: see `scenario.Count`.
        median, longest: milliseconds that a step waited; None where nobody was there to say it.
        end: seconds at train end.
        broken: promises of the line that were not kept, in words.
    """

    fault: str
    steps: int
    produced: int
    stored: int
    lost: int
    doubled: int
    median: float | None = None
    longest: float | None = None
    end: float | None = None
    broken: tuple[str, ...] = ()


class Bench:
    """A fault begins after a tenth of the training and ends after seven tenths."""

    def __init__(self, place: Path, steps: int) -> None:
        import mlflow

        self.place, self.steps = place, steps
        self.begin, self.end = max(1, steps // 10), 7 * steps // 10
        self.database = place / "mlflow.db"
        self.client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{self.database}")
        self.client.search_experiments()
        self.empty = place / "empty.db"
        shutil.copy(self.database, self.empty)
        self.server = Server(place)
        self.server.start()
        self.proxy = DistantProxy(self.server.uri)
        self.channels: list[Channel] = []
        self.number = 0

    def close(self) -> None:
        """End the processes."""
        for process in couriers(self.place):
            with contextlib.suppress(psutil.Error):
                process.kill()
        for channel in self.channels:
            channel.close()
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

    def channel(self) -> Channel:
        """A Slack channel of its own."""
        self.channels.append(Channel())
        return self.channels[-1]

    def tags(self, run_id: str) -> dict[str, str]:
        """Of a run on the server."""
        return dict(self.client.get_run(run_id).data.tags)

    def train(
        self, folder: Path, trackers: list[Tracker], doings: dict[int, Callable[[], Any]], **options: Any
    ) -> Outcome:
        """A training of as many steps as every line has, as fast as they are."""
        outcome: Outcome = quietly(lambda: train(folder, trackers, doings, self.steps, **options))
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

    def restart(self) -> None:
        """Start the server while the training goes on."""
        if self.server.process is not None and self.server.process.poll() is not None:
            threading.Thread(target=self.server.start).start()

    def line(
        self,
        fault: str,
        outcome: Outcome,
        folder: Path,
        run_id: str,
        *,
        store: str | None = None,
        sync: bool = False,
        delivery_s: float = DELIVERY_S,
        promises: Callable[[], Mapping[str, bool]] = dict,
    ) -> Line:
        """Wait for the courier, and count.

        Args:
            fault: in words.
            outcome: of the training.
            folder: where its journals are, or below it.
            run_id: its run in MLflow.
            store: where that is, if not on the server.
            sync: `rldk-tracking sync` sends what is left; there is no courier to wait for.
            delivery_s: for so long the courier is waited for.
            promises: what else has to be so then, in words.
        """
        store = store or f"sqlite:///{self.database}"
        if sync:
            quietly(lambda: command_line(["sync", str(folder), "--timeout", "60", "--tracking-uri", store]))
        elif delivery_s:
            wait_for(lambda: is_delivered(folder), delivery_s)
        found = count(outcome, stored_in_mlflow(store, run_id))
        broken = tuple(what for what, is_kept in promises().items() if not is_kept)
        median, longest = outcome.wait_ms() or (None, None)
        return Line(fault, outcome.steps, **vars(found), median=median, longest=longest, end=outcome.end, broken=broken)


def journals(folder: Path) -> list[Path]:
    """The journals of trainings in a folder and below it."""
    return [
        path for path in folder.rglob("run*.jsonl") if re.fullmatch(r"run(-\d+)?", path.stem) and destinations(path)
    ]


def destinations(journal: Path) -> dict[str, dict[str, Any]]:
    """The destinations of a journal that the courier serves, id to record."""
    records = [entry.record for entry in read_all(FileLines(journal))]
    return {r["id"]: r for r in records if r.get("type") == "destination" and not r["in_process"]}


def offsets(journal: Path) -> dict[str, Offset]:
    """What each destination of a journal has taken."""
    return {name: Offset.load(offset_path(journal, name)) for name in destinations(journal)}


def is_delivered(folder: Path) -> bool:
    """Whether every destination of every journal below a folder has taken all of it, its end included."""
    found = journals(folder)
    return bool(found) and all(
        offset.closed and offset.position >= journal.stat().st_size
        for journal in found
        for offset in offsets(journal).values()
    )


def quietly(work: Callable[[], Any]) -> Any:
    """Without the progress bars and log lines of trainers."""
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return work()
    finally:
        logging.disable(logging.NOTSET)
