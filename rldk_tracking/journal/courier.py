"""Brings a journal to its destinations, also after the trainer is gone, until all is delivered or its time is up.

Each destination of each journal has a thread, so that one that hangs holds up no other. The courier's process runs a
`Follower` for each journal that it is given; where no process can be had, the trainer runs it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rldk_tracking.health.alert import Alert
from rldk_tracking.journal.attempts import Deadline
from rldk_tracking.journal.beats import is_alive
from rldk_tracking.journal.contents import Contents
from rldk_tracking.journal.offset import Offset, Target, load_offset
from rldk_tracking.journal.reader import FileLines, JournalLines, Lines, MemoryLines
from rldk_tracking.journal.sender import Sender
from rldk_tracking.journal.watchdog import Watchdog
from rldk_tracking.trackers.base import Tracker
from rldk_tracking.trackers.channel import Channel
from rldk_tracking.trackers.lines import LineFile, line_of
from rldk_tracking.trackers.records import encode

AFTER_THE_TRAINER_S = 6 * 3600.0
"""For so long it goes on trying when the trainer is gone."""
NOTHING_LEFT_S = 10.0
"""The same where the journal was deleted too: nobody could send the rest of it later, or would look for it."""
LOOK_S = 0.25
"""Seconds between two looks at the journal."""
WATCH_S = 1.0
"""Seconds between two looks at the training itself."""


class Follower(threading.Thread):
    """Follows one journal, and has its destinations served.

    Args:
        journal: the file.
        pid, created: the process that trains, and when it started in seconds since the epoch.
        targets: where it goes.
        rules: parameters of the rules of the family `run` that are on.
        log: where to say what happens.
        memory: where this is the process that writes the journal, as a last resort: gives the lines that its file did
            not take, None as long as it takes them.
        holds_lock: False for one more follower, next to that which has the journal's lock.
    """

    def __init__(
        self,
        journal: Path,
        pid: int,
        created: float,
        targets: Iterable[Target],
        rules: Mapping[str, Mapping[str, Any]],
        log: logging.Logger,
        memory: Callable[[], MemoryLines | None] | None = None,
        holds_lock: bool = True,
    ) -> None:
        super().__init__(name="rldk-courier", daemon=True)
        self.deadline = Deadline((pid, created))
        self._journal = journal
        self._identity = (pid, created)
        self._targets = list(targets)
        self._log = log
        self._memory = memory
        self._lock = LineFile(journal.with_name(f"{journal.stem}.courier.lock")) if holds_lock else None
        self._rules = rules if holds_lock else {}
        self._watchdog: Watchdog | None = None
        self._senders: list[tuple[Sender, threading.Thread]] = []
        self._lines = self._new_lines()
        self._contents = Contents()
        self._watch_at, self._looks_since_gone = 0.0, 0
        self._judged_end: dict[str, Any] | None = None
        self._is_taken_over = self._is_unwatched = self._leaves = self._has_said_no_thread = False

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

    @property
    def trainer_is_alive(self) -> bool:
        """Whether the process that trains is there still."""
        return is_alive(*self._identity)

    def run(self) -> None:
        """Until all is delivered and the training is over, or time is up."""
        try:
            if self._locked():
                while not self._look():
                    self.deadline.sleep(LOOK_S)
        except OSError as error:
            self._log.warning("The journal cannot be followed: %s", error)
        finally:
            if self._is_taken_over or self._leaves:
                self.deadline.stop()
            for _, thread in self._senders:
                thread.join()
            if self._lock is not None:
                self._lock.close()

    def _locked(self) -> bool:
        """Wait for the journal's lock, which an earlier courier may still have."""
        said = False
        while self._lock is not None and not self._lock.try_lock():
            if not said:
                said = True
                self._log.info("Another courier has %s still.", self._journal.name)
            self._limit()
            if self.deadline.is_out_of_time:
                return False
            self.deadline.sleep(LOOK_S)
        return True

    def _look(self) -> bool:
        """Take notice of what has changed. Returns whether there is nothing left to do."""
        self._limit()
        was_alive = self.trainer_is_alive
        self._scan()
        if self._is_taken_over or self._leaves:
            return True
        for target in list(self._targets):
            if self._start(target):
                self._targets.remove(target)
        end, now = self._contents.end, time.monotonic()
        if now >= self._watch_at or end is not self._judged_end:
            self._watch_at, self._judged_end = now + WATCH_S, end
            self._append(self._judged())
            self.deadline.is_end_judged = end is not None
            if not was_alive and self._memory is None:
                self._looks_since_gone += 1
                self.deadline.is_gone = self._looks_since_gone > 1  # what is said of that is in the journal by then
        if any(thread.is_alive() for _, thread in self._senders):
            return False
        if self._targets and not self.deadline.is_out_of_time:  # which have no thread yet
            return False
        if not self.deadline.is_gone and not self._contents.has_ended:
            return False
        if self._targets or not all(sender.offset.closed for sender, _ in self._senders):
            self._say_what_is_left()
        return True

    def _limit(self) -> None:
        if self._memory is None and not self.trainer_is_alive:
            self.deadline.limit(AFTER_THE_TRAINER_S if _is_there(self._journal) else NOTHING_LEFT_S)

    def _scan(self) -> None:
        """What the journal says of the training."""
        if self._lines.replaced():
            self._contents = Contents()
        self._contents.read(self._lines)
        begin = self._contents.begin
        self._is_taken_over = bool(begin) and (begin.get("pid"), begin.get("created")) != self._identity

    def _judged(self) -> list[Alert]:
        """What the watchdog has to say. A fault of it costs the watchdog, and no delivery."""
        contents = self._contents
        if self._is_unwatched:
            return []
        try:
            if self._watchdog is None:
                self._watchdog = Watchdog(self._journal, *self._identity, self._rules, contents.firing.values())
            return self._watchdog.look(time.monotonic(), contents.last_step, contents.end)
        except Exception:  # noqa: BLE001 - the journal is delivered, whatever is wrong with its watchdog
            self._is_unwatched = True
            self._log.exception("The training is not watched any more.")
            return []

    def _append(self, alerts: Sequence[Alert]) -> None:
        memory = None if self._memory is None else self._memory()
        try:
            if memory is None:
                append_alerts(self._journal, alerts)
            else:
                for alert in alerts:
                    memory.append(alert_lines([alert]))
        except OSError as error:
            self._log.warning("%d alerts cannot be written to the journal (%s).", len(alerts), type(error).__name__)

    def _new_lines(self) -> Lines:
        """For one thread: a file has one position."""
        return FileLines(self._journal) if self._memory is None else JournalLines(self._journal, self._memory)

    def _start(self, target: Target) -> bool:
        """Have a destination served. False where there is no thread for it now, which is tried again."""
        lines = self._new_lines()
        offset = load_offset(self._journal, target, lines, self._log)
        sender = Sender(
            target.id,
            self._connecting(target),
            lines,
            offset,
            self.deadline,
            self._log.getChild(target.id),
            hands_back=self._memory is None,
        )
        thread = threading.Thread(target=sender.run, name=f"rldk-{target.id}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            if not self._has_said_no_thread:
                self._has_said_no_thread = True
                self._log.warning("No thread can be started for %s (%s); it is tried again.", target.id, error)
            return False
        self._senders.append((sender, thread))
        return True

    def _connecting(self, target: Target) -> Callable[[Mapping[str, str]], Tracker]:
        def connect(to: Mapping[str, str]) -> Tracker:
            tracker = target.connect(to)
            if isinstance(tracker, Channel):
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


def _is_there(journal: Path) -> bool:
    """Whether a journal exists; one that cannot be asked for does."""
    try:
        journal.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def append_alerts(journal: Path, alerts: Sequence[Alert]) -> None:
    """Add what was noticed from outside the training to its journal, where that is still there. Raises OSError."""
    if alerts and journal.exists():
        file = LineFile(journal)
        file.append(alert_lines(alerts))
        file.close()


def alert_lines(alerts: Sequence[Alert]) -> bytes:
    """Alerts as lines of a journal."""
    return b"".join(line_of(encode("alert", (alert,), time.time())) for alert in alerts)
