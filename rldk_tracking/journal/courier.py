"""Brings the journals of a training process to their destinations, in a process of its own.

`serve` reads from its input which journals to follow, one JSON object a line, and goes on after the trainer is gone,
until all is delivered or its time is up. Each destination of each journal has a thread, so that one that hangs holds up
no other. Where no process can be had, the trainer runs a `Follower` in a thread.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from rldk_tracking.health.alert import Alert
from rldk_tracking.journal.earlier import note_run_alert
from rldk_tracking.journal.lock import FileLock
from rldk_tracking.journal.log import courier_log
from rldk_tracking.journal.offset import Offset
from rldk_tracking.journal.reader import FileLines, Lines, MemoryLines, read_all
from rldk_tracking.journal.sender import Sender
from rldk_tracking.journal.target import Target, load_offset
from rldk_tracking.journal.watch import Trainer, Watch
from rldk_tracking.journal.watchdog import Watchdog
from rldk_tracking.trackers.base import Tracker
from rldk_tracking.trackers.line_file import LineFile
from rldk_tracking.trackers.records import dumps, encode
from rldk_tracking.trackers.slack import SlackNotifier

AFTER_THE_TRAINER_S = 6 * 3600.0
"""For so long it goes on trying when the trainer is gone."""
_LOOK_S = 1.0
"""Seconds between two looks at the training."""


class Follower(threading.Thread):
    """Follows one journal, and has its destinations served.

    Args:
        journal: the file.
        pid, created: the process that trains, see `Trainer`.
        targets: where it goes.
        rules: parameters of the rules of the family `run` that are on.
        lines: where the lines are, if not in the file.
        log: where to say what happens.
        is_trainer: whether this is the trainer's own process, as a last resort.
        holds_lock: False for one more follower beside that which has the journal's lock.
    """

    def __init__(
        self,
        journal: Path,
        pid: int,
        created: float,
        targets: Iterable[Target],
        rules: Mapping[str, Mapping[str, Any]],
        log: logging.Logger,
        lines: Lines | None = None,
        is_trainer: bool = False,
        holds_lock: bool = True,
    ) -> None:
        super().__init__(name="rldk-courier", daemon=True)
        self.watch = Watch((pid, created))
        self._journal = journal
        self.trainer = Trainer(pid, created)
        self._identity = (pid, created)
        self._targets = list(targets)
        self._log = log
        self._lines = lines
        self._is_trainer = is_trainer
        self._lock = FileLock(journal.with_name(f"{journal.stem}.courier.lock")) if holds_lock else None
        self._rules = rules if holds_lock else {}
        self._watchdog: Watchdog | None = None
        self._senders: list[tuple[Sender, threading.Thread]] = []
        self._own_lines = lines or FileLines(journal)
        self._position = 0
        self._last_step = 0
        self._looks_since_gone = 0
        self._end: dict[str, Any] | None = None
        self._firing: dict[str, Alert] = {}
        self._is_taken_over = self._is_unwatched = self._leaves = False

    def add(self, target: Target) -> None:
        """One more destination, or one whose journal goes on."""
        self._targets.append(target)

    def leave(self) -> None:
        """The training's process goes on with this journal itself."""
        self._leaves = True

    @property
    def offsets(self) -> dict[str, Offset]:
        """What each destination has taken, by id."""
        return {sender.name: sender.offset for sender, _ in self._senders}

    def run(self) -> None:
        """Until all is delivered and the training is over, or time is up."""
        try:
            if self._locked():
                while not self._look():
                    self.watch.sleep(_LOOK_S)
        except OSError as error:
            self._log.warning("The journal cannot be followed: %s", error)
        finally:
            if self._is_taken_over or self._leaves:
                self.watch.stop()
            for _, thread in self._senders:
                thread.join()
            if self._lock is not None:
                self._lock.release()

    def _locked(self) -> bool:
        """Wait for the journal's lock, which an earlier courier may still have."""
        said = False
        while self._lock is not None and not self._lock.acquire():
            if not said:
                said = True
                self._log.info("Another courier has %s still.", self._journal.name)
            self._limit()
            if self.watch.is_out_of_time:
                return False
            self.watch.sleep(_LOOK_S)
        return True

    def _look(self) -> bool:
        """Take notice of what has changed. Returns whether there is nothing left to do."""
        self._limit()
        was_alive = self.trainer.is_alive
        self._scan()
        if self._is_taken_over or self._leaves:
            return True
        while self._targets:
            self._start(self._targets.pop(0))
        self._append(self._judged())
        self.watch.is_end_judged = self._end is not None
        if not was_alive and not self._is_trainer:
            self._looks_since_gone += 1
            self.watch.is_gone = self._looks_since_gone > 1  # so that what is said of it is in the journal by then
        if any(thread.is_alive() for _, thread in self._senders):
            return False
        if not self.watch.is_gone and self._end is None:
            return False
        if not all(sender.offset.closed for sender, _ in self._senders):
            self._say_what_is_left()
        return True

    def _limit(self) -> None:
        if not self._is_trainer and not self.trainer.is_alive:
            self.watch.limit(AFTER_THE_TRAINER_S)

    def _scan(self) -> None:
        """What the journal says of the training."""
        if self._own_lines.replaced():
            self._position = 0
        for entry in read_all(self._own_lines, self._position):
            self._position = entry.end
            kind = entry.record.get("type")
            if kind == "begin":
                self._end = None
                self._is_taken_over = (entry.record.get("pid"), entry.record.get("created")) != self._identity
            elif kind == "end":
                self._end = entry.record
            for method, args in entry.calls:
                if method == "log":
                    self._last_step = max(self._last_step, args[1])
                elif method == "alert":
                    note_run_alert(self._firing, args[0])

    def _judged(self) -> list[Alert]:
        """What the watchdog has to say. A fault of it costs the watchdog, and no delivery."""
        if self._is_unwatched:
            return []
        try:
            if self._watchdog is None:
                self._watchdog = Watchdog(self._journal, *self._identity, self._rules, self._firing.values())
            return self._watchdog.look(time.monotonic(), self._last_step, self._end)
        except Exception:  # noqa: BLE001 - the journal is delivered, whatever is wrong with its watchdog
            self._is_unwatched = True
            self._log.exception("The training is not watched any more.")
            return []

    def _append(self, alerts: Sequence[Alert]) -> None:
        try:
            if isinstance(self._lines, MemoryLines):
                for alert in alerts:
                    self._lines.append(alert_lines([alert]))
            else:
                append_alerts(self._journal, alerts)
        except OSError as error:
            self._log.warning("%d alerts cannot be written to the journal (%s).", len(alerts), type(error).__name__)

    def _start(self, target: Target) -> None:
        lines = self._lines or FileLines(self._journal)
        offset = load_offset(self._journal, target, lines, self._log)
        sender = Sender(
            target.id,
            self._connecting(target),
            lines,
            offset,
            self.watch,
            self._log.getChild(target.id),
            hands_back=not self._is_trainer,
        )
        thread = threading.Thread(target=sender.run, name=f"rldk-{target.id}", daemon=True)
        self._senders.append((sender, thread))
        thread.start()

    def _connecting(self, target: Target) -> Callable[[Mapping[str, str]], Tracker]:
        def connect(to: Mapping[str, str]) -> Tracker:
            tracker = target.connect(to)
            if isinstance(tracker, SlackNotifier):
                tracker.link_to_pages([self._page])
            return tracker

        return connect

    def _page(self) -> str | None:
        return next((offset.url for offset in self.offsets.values() if offset.url), None)

    def _say_what_is_left(self) -> None:
        self._log.warning(
            "Not everything was delivered. The rest is in %s; `rldk-tracking sync %s` sends it.",
            self._journal,
            self._journal.parent,
        )


def append_alerts(journal: Path, alerts: Sequence[Alert]) -> None:
    """Add what was noticed beside the training to its journal, where that is still there. Raises OSError."""
    if alerts and journal.exists():
        file = LineFile(journal)
        file.append(alert_lines(alerts))
        file.close()


def alert_lines(alerts: Sequence[Alert]) -> bytes:
    """Alerts as lines of a journal."""
    return "".join(dumps(encode("alert", (alert,), time.time())) + "\n" for alert in alerts).encode()


def serve(source: IO[bytes]) -> None:
    """Follow the journals that `source` names, until they are delivered and the trainer is gone."""
    followers: dict[str, Follower] = {}
    lock = threading.Lock()

    def listen() -> None:
        for line in source:
            try:
                message = json.loads(line)
                with lock:
                    _obey(message, followers)
            except (ValueError, KeyError, TypeError, OSError):
                continue

    listening = threading.Thread(target=listen, name="rldk-listen", daemon=True)
    listening.start()
    while True:
        with lock:
            active = [follower for follower in followers.values() if follower.is_alive()]
            trainers = [follower.trainer for follower in followers.values()]
        trainer_is_gone = bool(trainers) and not any(trainer.is_alive for trainer in trainers)
        if not active and (trainer_is_gone or not listening.is_alive()):
            return
        listening.join(_LOOK_S)
        if active:
            active[0].join(_LOOK_S)


def _obey(message: Mapping[str, Any], followers: dict[str, Follower]) -> None:
    journal = str(message["journal"])
    follower = followers.get(journal)
    if message.get("hurry"):
        if follower is not None:
            follower.watch.hurry()
        return
    if message.get("leave"):
        if follower is not None:
            follower.leave()
        return
    os.environ.update({str(name): str(value) for name, value in message.get("environment", {}).items()})
    targets = [
        Target(str(one["id"]), str(one["tracker"]), dict(one["to"]), dict(one["secrets"]))
        for one in message["destinations"]
    ]
    if follower is not None and follower.is_alive():
        for target in targets:
            follower.add(target)
        return
    path = Path(journal)
    follower = Follower(
        path, int(message["pid"]), float(message["created"]), targets, message.get("rules", {}), courier_log(path)
    )
    followers[journal] = follower
    follower.start()
