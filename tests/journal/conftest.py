"""Real backends on this machine, and trainings in processes of their own that write a journal as a run does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from rldk_tracking.health.alert import Alert
from rldk_tracking.journal.journal import Journal
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.base import Tracker
from tests.trackers.conftest import Store, make_alert, mlflow_server, mlflow_template, store
from tests.trackers.test_slack import webhook

__all__ = ["make_alert", "mlflow_server", "mlflow_template", "store", "webhook"]

ROOT = Path(__file__).parents[2]
INFO = RunInfo(name="a try", trainer="GRPOTrainer", config={"beta": 0.02})


def started(folder: Path, *trackers: Tracker, ids: tuple[str, ...] = (), **begin: Any) -> Journal:
    """A journal with its first records, for trackers that are open."""
    resumed_at = begin.get("resumed_at")
    journal = Journal.open(folder, [(tracker.name, tracker.address()) for tracker in trackers], resumed_at)
    journal.begin(INFO, 1, {}, resumed_at)
    for number, tracker in enumerate(trackers):
        journal.destination(ids[number] if ids else tracker.name, tracker)
    return journal


def row(step: int) -> dict[str, float]:
    return {"rldk/a": step / 2, "rldk/reward/mean": step / 3, "rldk/health/score": 1.0}


class Training:
    """`tests/journal/training.py` in a process of its own."""

    def __init__(self, folder: Path, environment: dict[str, str] | None = None, **options: Any) -> None:
        self.folder = folder
        self.options = {"folder": str(folder)} | options
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "journal" / "training.py"), json.dumps(self.options)],
            stdout=subprocess.PIPE,
            stderr=(folder / "stderr.txt").open("ab"),
            text=True,
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | (environment or {}),
        )
        self.courier: psutil.Process | None = None
        self.said: list[str] = []

    def until(self, word: str) -> str:
        """Read what it says up to a line that begins with a word."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._take(line)
            if line.startswith(word):
                return line.strip()
        raise AssertionError(f"it never said {word!r}, but {self.said[-5:]}: {self.errors()}")

    def wait(self, timeout: float = 60) -> int:
        (self.folder / "enough").touch()
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._take(line)
        return self.process.wait(timeout)

    def _take(self, line: str) -> None:
        self.said.append(line.strip())
        word, _, number = line.strip().partition(" ")
        if word == "courier" and number.isdigit() and psutil.pid_exists(int(number)):
            self.courier = psutil.Process(int(number))

    @property
    def steps(self) -> list[int]:
        """The steps that it said were over, from the first on."""
        return [int(line.split()[1]) for line in self.said if line.startswith("step ")]

    @property
    def delivered(self) -> str:
        """What it said at its end: whether all had arrived, and after how many seconds."""
        (line,) = (line for line in self.said if line.startswith("delivered "))
        return line

    def errors(self) -> str:
        return (self.folder / "stderr.txt").read_text()

    @property
    def journal(self) -> Path:
        return self.folder / "_rldk" / "run.jsonl"

    def offset(self, name: str = "mlflow") -> dict[str, Any]:
        path = self.folder / "_rldk" / f"run.{name}.offset.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def end(self) -> None:
        self.process.kill()
        if self.process.stdout is not None and not self.process.stdout.closed:
            for line in self.process.stdout:  # which courier it had
                self._take(line)
        for process in (self.process.pid, self.courier.pid if self.courier else None):
            if process is not None and psutil.pid_exists(process):
                psutil.Process(process).kill()
        self.process.wait(10)
        if self.process.stdout is not None:
            self.process.stdout.close()


@pytest.fixture
def train(tmp_path: Path) -> Iterator[Callable[..., Training]]:
    made: list[Training] = []

    def start(**options: Any) -> Training:
        made.append(Training(tmp_path, **options))
        return made[-1]

    yield start
    for training in made:
        training.end()


def eventually(holds: Callable[[], bool], seconds: float = 30) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.05)


def an_alert(step: int = 4, rule: str = "kl.high", **changes: Any) -> Alert:
    fields: dict[str, Any] = {
        "rule": rule,
        "severity": "warning",
        "state": "firing",
        "step": step,
        "first_step": step,
        "value": 0.3,
        "threshold": 0.2,
        "message": "KL is 0.3.",
        "advice": "Lower it.",
    }
    return Alert(**(fields | changes))


def steps_in(store: Store, run_id: str, key: str = "rldk/a") -> list[int]:
    """The steps of which a run holds a point, one that is there twice twice."""
    return [step for step, _ in store.history(run_id, key)]
