"""Where the judged rows of one run go on rank 0: into its journal, and from there to every tracker.

It lives until the process ends, to say how a run ended that nobody closed. So it knows neither the run nor the trainer:
a training that was broken off must not keep its model in memory until then.

Keys, read by `rldk_tracking.metrics.keys`:

    rldk/system/tracker_errors | writes | host | lower | sum over ranks
        Writes that a tracker has not taken so far.
        = count
    rldk/system/trackers_down | trackers | host | lower | max over ranks
        Trackers that do not take our writes at present.
        = count
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rldk_tracking.charts.announce import announce, announce_alert, announce_journal
from rldk_tracking.charts.incidents import incidents_of, verdict
from rldk_tracking.health.alert import Alert, add_alert
from rldk_tracking.health.rule import Rule
from rldk_tracking.health.watched import as_data
from rldk_tracking.isolation import Shield
from rldk_tracking.journal import exits
from rldk_tracking.journal.contents import BEFORE_ALL_STEPS
from rldk_tracking.journal.exits import TrainCall
from rldk_tracking.journal.joined_runs import Trainings, say_never_a_run, say_no_run
from rldk_tracking.journal.journal import Journal, journal_number
from rldk_tracking.journal.offset import named
from rldk_tracking.journal.process import LOOK_S, Destination, courier
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.base import Row, Tracker

logger = logging.getLogger(__name__)

FOLDER = "_rldk"
"""In the trainer's output folder. `push_to_hub` of transformers leaves names with an underscore out."""
BROKEN_OFF = "an exception or an interrupt ended the training, and its process goes on"
"""Kept in the journal where nobody saw the exception."""
ONCE_A_STEP = ("rldk/health/", "rldk/alerts/", "rldk/system/")
"""Series of which a second row of a step has nothing new: a store keeps both points, and one is one too many."""


class Publisher:
    """The way out of one run.

    Args:
        strict: let the errors of user functions and trackers out.
        close_timeout_s: for what the trackers have not taken when training ends.

    Attributes:
        alerts: every transition so far.
        closed: whether the run is over.
        latest: the last row, its step and its numbers.
        train_call: the trainer's `train()` that it began in.
        journal: the run's file; None before `open`, and where nothing is written.
        shield: keeps the faults of trackers from the training, and counts them.
    """

    def __init__(self, strict: bool = False, close_timeout_s: float = 15.0) -> None:
        self.alerts: list[Alert] = []
        self.closed = False
        self.latest: tuple[int | None, dict[str, float]] = (None, {})
        self.journal: Journal | None = None
        self.shield = Shield(strict)
        self.train_call = TrainCall()
        self._close_timeout_s = close_timeout_s
        self._closing = threading.Lock()
        self._pid = os.getpid()
        self._has_said_no_run = False
        self._info = RunInfo()
        self._joining: list[Destination] = []
        self._in_process: list[tuple[Tracker, int]] = []
        self._resumed_at: int | None = None
        self._sent: list[Destination] = []
        self._run_rules: Mapping[str, Mapping[str, Any]] = {}
        self._trainings = Trainings()
        self._status, self._is_open = "", False
        self._look_at = 0.0
        self._delivery: Mapping[str, float] = {}

    def open(
        self,
        rules: Sequence[Rule],
        info: RunInfo,
        trackers: Sequence[Tracker],
        folder: Path | None,
        resumed_at: int | None = None,
        ranks: int = 1,
    ) -> None:
        """The run has begun.

        Args:
            rules: all of the run's.
            info: what the trackers may know of the run.
            trackers: the backends, with the webhooks of the rules.
            folder: where the journal is; None where there is nothing to write it for.
            resumed_at: the checkpoint's step where the training goes on from one.
            ranks: how many processes train.
        """
        self.train_call = TrainCall()
        _close_those_broken_off(self.train_call)
        self._is_open, self._info, self._resumed_at = True, info, resumed_at
        destinations = named(trackers)
        for destination in destinations:
            with self.shield.at(f"opening {destination.id}"):
                destination.tracker.open(info)
        self._joining = destinations
        if folder is not None:
            addresses = [(destination.tracker.name, destination.tracker.address()) for destination in destinations]
            self._run_rules = as_data(rules)
            self.journal = Journal.open(folder, addresses, resumed_at)
            self.journal.begin(info, ranks, self._run_rules, resumed_at)
        self.join()
        self.status("running", resumed_at or 0)
        exits.note_open(self)

    @property
    def journal_number(self) -> int:
        """Which of its folder's journals this run's is, from 1; 0 without one."""
        return 0 if self.journal is None else journal_number(self.journal.path)

    @property
    def is_watched(self) -> bool:
        """Whether the courier follows the journal, and so sees a training that stops."""
        return self.journal is not None and any(not d.tracker.in_process for d in [*self._sent, *self._joining])

    @property
    def ends_with_trainer(self) -> bool:
        """Whether a tracker's run is ended by a callback of the trainer's."""
        return any(t.ends_with_trainer for t in [t for t, _ in self._in_process] + [d.tracker for d in self._sent])

    @property
    def is_open(self) -> bool:
        """Whether the run has begun and nobody has closed it."""
        return self._is_open and not self.closed

    def join(self) -> None:
        """Let the trackers that have no run yet join it. Called before each row."""
        waiting, self._joining = self._joining, []
        joined: list[Destination] = []
        for destination in waiting:
            tracker = destination.tracker
            if not tracker.joined:
                with self.shield.at(f"opening {destination.id}"):
                    tracker.open(self._info)
            (joined if tracker.joined else self._joining).append(destination)
        if not joined:
            return
        for destination in [d for d in joined if d.tracker.in_process]:
            last = BEFORE_ALL_STEPS
            if self._resumed_at is not None:  # a step that a resumed run has already stays as it is
                with self.shield.at(f"bringing {destination.id} up to the checkpoint"):
                    last = self._bring_up(destination.tracker, self._resumed_at)
            self._in_process.append((destination.tracker, last))
        if self.journal is not None:
            for destination in joined:
                self.journal.destination(destination.id, destination.tracker)
            sent = [d for d in joined if not d.tracker.in_process]
            self._sent += sent
            if sent:
                courier().follow(self.journal, sent, self._run_rules)
        for destination in joined:
            with self.shield.at(f"looking for earlier trainings in {destination.id}"):
                resumes = self._resumed_at is not None
                self._trainings.join(destination.tracker, self._info.trainer, resumes, self.publish)

    def _bring_up(self, tracker: Tracker, resumed_at: int) -> int:
        """Write the rows up to the checkpoint that died with the client of the earlier training.

        Returns:
            The last step of which the tracker has a row; 0 where it cannot say.
        """
        last = tracker.last_step()
        if last is not None and self.journal is not None:
            for step, row in self.journal.earlier.rows(self.journal.path, last, resumed_at):
                tracker.log_rows([Row.of(row, step, time.time())])
        return last or 0

    def health(self) -> dict[str, float]:
        """What the trackers do at present; rank 0's own affair, and no reason for a stop."""
        if not self._in_process and not self._sent and not self._joining:
            return {}
        errors = self._delivery.get("rldk/system/tracker_errors", 0.0) + self.shield.faults
        down = self._delivery.get("rldk/system/trackers_down", 0.0) + len(self._joining)  # those without a run
        return {"rldk/system/trackers_down": down, "rldk/system/tracker_errors": errors, **self._trainings.marks}

    def row(self, step: int, row: Mapping[str, float], alerts: Iterable[Alert], status: str = "running") -> list[Alert]:
        """Write a judged row, what was found in it, and how the run is; returns the alerts that were not sent yet."""
        alerts = list(alerts)
        for alert in alerts:
            add_alert(self.alerts, alert)
        if self._joining and not self._has_said_no_run:
            self._has_said_no_run = True
            say_no_run(self._joining, None if self.journal is None else self.journal.path)
        earlier = self.latest[1] if self.latest[0] == step else {}
        if self.latest[0] is None or step >= self.latest[0]:  # otherwise it became known late
            self.latest = (step, earlier | dict(row))
        row = news_of(row, earlier)
        alerts = [alert for alert in alerts if self.journal is None or self.journal.earlier.is_new(alert)]
        for alert in alerts:
            announce_alert(alert)
        if self.journal is not None:
            self.journal.row(step, row, alerts)
            if self._sent and time.monotonic() >= self._look_at:
                self._look_at = time.monotonic() + LOOK_S
                courier().check()
                self._delivery = courier().health(self.journal)
        for tracker, last in self._in_process:
            with self.shield.at(f"writing to {tracker.name}"):
                if row and tracker.takes_rows and step > last:
                    tracker.log_rows([Row.of(row, step, time.time())])
                for alert in alerts:
                    tracker.alert(alert)
        self.status(status, self.latest[0] or step)
        return alerts

    def publish(self, method: str, *args: Any) -> None:
        """Have `tracker.<method>(*args)` called on every tracker."""
        if self.journal is not None:
            self.journal.call(method, *args)
        for tracker, _ in self._in_process:
            with self.shield.at(f"writing to {tracker.name}"):
                getattr(tracker, method)(*args)

    def status(self, status: str, step: int) -> None:
        """How the run is, where that has changed."""
        if status != self._status:
            self._status = status
            self.publish("status", status, dict(self.latest[1]), step)

    def close(self, status: str, step: int | None = None, exception: str | None = None) -> None:
        """Write how the run ended, and give the trackers their time; that of one that crashed is the process's end.

        May be called from a thread of this package, when the training is over.
        """
        with self._closing:
            was_open, self.closed = self.is_open, True
        if not was_open or os.getpid() != self._pid:  # a forked child's copy is not the run
            return
        step = self.latest[0] or 0 if step is None else step
        has_crashed = status == "crashed"
        if not has_crashed:
            self.join()
            say_never_a_run(self._joining, None if self.journal is None else self.journal.path)
        self.status(status, step)
        announce(verdict(status, step, self.latest[1], incidents_of(self.alerts)))
        if self.journal is not None:
            self.journal.end(status, step, exception)
            if has_crashed:
                courier().release(self.journal)
            elif self._sent:
                courier().wait(self.journal, self._close_timeout_s)
            self.journal.close()
        others = [destination.tracker for destination in [*self._sent, *self._joining]]
        for tracker in [*(tracker for tracker, _ in self._in_process), *others]:
            with self.shield.at(f"closing {tracker.name}"):
                tracker.close()
        if self.journal is not None and self.journal.memory is None:
            path = self.journal.path
            announce_journal(path, path.parent.parent if path.parent.name == FOLDER else path.parent)
        exits.note_closed(self)

    def close_if_broken_off(self, later: TrainCall | None = None) -> bool:
        """Close it where an exception has ended its training. `later` is the training that begins now, if one does."""
        if self.train_call.is_over(later):
            self.close("crashed", exception=self.train_call.exception() or BROKEN_OFF)
        return self.closed


def _close_those_broken_off(later: TrainCall) -> None:
    for run in exits.open_runs():
        if isinstance(run, Publisher):
            run.close_if_broken_off(later)


def news_of(row: Mapping[str, float], earlier: Mapping[str, float]) -> dict[str, float]:
    """What a step's second row says that its first did not."""
    changed = {key: value for key, value in row.items() if earlier.get(key) != value}
    return {key: value for key, value in changed.items() if key not in earlier or not key.startswith(ONCE_A_STEP)}


def folder_of(output_dir: str | os.PathLike[str] | None, info: RunInfo) -> Path | None:
    """Where the journal of a run is, the same on every rank; None where there is no folder for it.

    Args:
        output_dir: the user's own choice.
        info: knows the trainer's output folder.
    """
    if output_dir is not None:
        return Path(output_dir)
    return None if info.output_dir is None else Path(info.output_dir) / FOLDER
