"""Hands calls to one tracker without making the training wait for it or fall with it.

`put` writes the call to a spool on disk, where there is one, and appends it to a bounded queue; one daemon thread hands
the queue on, in order. `store` does the same and leaves that thread asleep until `wake`. A tracker that fails is asked
again after a pause that doubles. What does not fit into the queue meanwhile waits on disk alone and is read back when
the tracker has returned. What is left when the time limit of `close` is over stays in the spool, for
`rldk-tracking sync`; what the tracker rejects goes to a journal beside it.

A tracker with `threaded = False` is called on the caller's thread, with the same shield.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.base import RejectedError, Row, Tracker, UnavailableError
from rldk_tracking.trackers.outbox import Call, Outbox, T
from rldk_tracking.trackers.resumed import Resumed
from rldk_tracking.trackers.spool import Spool

logger = logging.getLogger(__name__)

_AT_EXIT_SECONDS = 5.0
_FEW = 2
"""Rows that are written at once where several may: what takes a client long to compute would reach into the events at
the step's end."""
_BACKLOG = 10
"""Rows that wait from which on the tracker is too slow for few at once."""
_DIRECT_BACKLOG = 20
"""How many overdue calls an unthreaded tracker may get in one `put`, so that its recovery costs no long step."""
_PACE = 0.25
"""Seconds from one write to the next while fewer rows wait than fit into one. Steps of some milliseconds would else be
written one by one, and what a backend's client computes holds up the training that shares its interpreter. For the same
reason a write begins with the next row, which comes when a step has just begun, or after as long again."""

_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+@|(?<=hooks\.slack\.com/)[^\s'\")]+")


class Delivery:
    """The way to one tracker. Nothing here raises, and `put` never waits.

    Args:
        tracker: the backend; `open` it on the training thread, here or directly.
        capacity: rows that wait at most. Alerts, tables and statuses are few and are always taken.
        spool: file for the calls that the tracker has not taken yet, or such a file that another process left.
        resumed_at: the checkpoint's step where the training goes on from one.
        backoff: pause after the first fault in seconds; it doubles with every further one.
        backoff_limit: longest pause in seconds.
        attempts: how often a call is tried that fails in an unknown way. `UnavailableError` and OSError are retried for
            as long as the run lasts, `RejectedError` never.
        stall: seconds after which a call that has not come back counts as a fault of health.

    Attributes:
        errors: faults so far, the tracker's and the spool's.
        delivered: calls that the tracker took.
        kept: calls that are on disk instead: rejected, or left when time was up.
        lost: calls that went nowhere. With a spool that can be written, 0.
    """

    def __init__(
        self,
        tracker: Tracker,
        *,
        capacity: int = 1000,
        spool: str | os.PathLike[str] | Spool | None = None,
        resumed_at: int | None = None,
        backoff: float = 0.5,
        backoff_limit: float = 30.0,
        attempts: int = 5,
        stall: float = 10.0,
    ) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, got {capacity}")
        self.tracker = tracker
        self.errors = 0
        self.delivered = 0
        self.kept = 0
        self.lost = 0
        self._capacity = capacity
        self._logged: set[str] = set()
        self._outbox = Outbox(tracker, spool, self._tried)
        self._resumed = None if resumed_at is None else Resumed(tracker, resumed_at, self._outbox.spool)
        self._backoff = backoff
        self._backoff_limit = backoff_limit
        self._attempts = attempts
        self._stall = stall
        self._queue: deque[Call] = deque()
        self._in_flight: list[Call] = []
        self._in_flight_since: float | None = None
        self._tries = 0
        self._faults_in_row = 0
        self._single = 0
        self._retry_at = 0.0
        self._paced_until = 0.0
        self._in_time = False
        self._flushing = 0
        self._deadline: float | None = None
        self._answered_deadline = 0.0
        self._abandoned = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    @property
    def healthy(self) -> bool:
        """Whether the last call passed and none has been under way for longer than `stall` seconds."""
        return self.answers(self._stall)

    def answers(self, within: float) -> bool:
        """Whether the last call passed and none has been under way for longer than so many seconds."""
        since = self._in_flight_since
        return self._faults_in_row == 0 and (since is None or time.monotonic() - since < within)

    @property
    def waiting(self) -> int:
        """Calls that the tracker has not taken yet."""
        return len(self._queue) + len(self._in_flight) + self._outbox.spilled

    def open(self, run: RunInfo) -> None:
        """Let the tracker join the run, on this thread."""
        try:
            self.tracker.open(run)
        except Exception as fault:  # noqa: BLE001 - no fault of a backend may reach the training
            self._count(fault)
        with self._changed:
            self._outbox.note_address()
            self._changed.notify_all()

    def put(self, method: str, *args: Any) -> None:
        """Have `tracker.<method>(*args)` called soon. Never waits nor raises; the caller changes no argument later."""
        if self.store(method, *args):
            self.wake()

    def store(self, method: str, *args: Any) -> bool:
        """As `put`, but nothing is begun before `wake`. Returns whether the tracker takes such calls at all."""
        if not self._is_taken_at_all(method):
            return False
        now = time.time()
        with self._changed:
            start = self._outbox.end()
            call = self._outbox.store(method, args, now)
            if self._deadline is not None:
                self._leave([call])
                return False
            full = self._outbox.spilled > 0 or (method == "log" and self.waiting >= self._capacity)
            if full and call.position is not None:
                self._outbox.spill(start)
            elif full and method == "log":
                self.lost += 1
            else:
                self._queue.append(call)
        return True

    def wake(self) -> None:
        """Hand on what was stored, or see to it that it is. Never waits nor raises."""
        if not self.waiting or self._deadline is not None:
            return
        with self._changed:
            self._in_time = self._in_time or self._enough() or time.monotonic() >= self._paced_until
            self._changed.notify_all()
        if self.tracker.threaded:
            self._start()
        else:
            self._drain(_DIRECT_BACKLOG)

    def hold(self, metrics: Mapping[str, float], step: int) -> None:
        """Keep what is known of a step on disk while its row is computed. Never waits nor raises."""
        if self.tracker.threaded and self.tracker.takes_rows:
            self._outbox.hold(metrics, step)
        elif self.tracker.joined and not self.tracker.threaded:
            self._tried(lambda: self.tracker.hold(metrics, step))

    def let_go(self) -> None:
        """The oldest step that is held was put, or has no row."""
        self._outbox.let_go()
        if not self.tracker.threaded:
            self.tracker.let_go()

    def flush(self, timeout: float) -> bool:
        """Wait until nothing waits, for at most `timeout` seconds. Returns whether that came to pass."""
        deadline = time.monotonic() + timeout
        if not self.tracker.threaded:
            self._drain(None)
        elif self.waiting:
            self._start()
        with self._changed:
            self._flushing += 1
            self._changed.notify_all()
            try:
                return self._changed.wait_for(lambda: not self.waiting, deadline - time.monotonic())
            finally:
                self._flushing -= 1

    def close(self, timeout: float = 15.0, patience: float | None = None) -> None:
        """Deliver what waits and close the tracker, for at most `timeout` seconds; the rest stays on disk.

        Args:
            timeout: of a tracker that takes what it is given.
            patience: seconds after which one that takes nothing is left alone; by default the same.
        """
        patience = timeout if patience is None else min(timeout, patience)
        with self._changed:
            if self._deadline is not None:
                return
            # The tracker gets the last tenth to close in.
            now = time.monotonic()
            self._deadline, self._answered_deadline = now + 0.9 * patience, now + 0.9 * timeout
            self._retry_at = 0.0
            self._changed.notify_all()
        if self.tracker.threaded:
            self._start()
            if self._thread is not None:
                self._thread.join(patience)
                if self._deadline == self._answered_deadline:
                    self._thread.join(max(0.0, now + timeout - time.monotonic()))
        else:
            self._drain(None)
            self._close_tracker()
        atexit.unregister(self._close_at_exit)
        with self._changed:
            self._abandoned = True
            self._leave([*self._in_flight, *self._queue])
            self.kept += self._outbox.give_up()
            self._in_flight = []
            self._queue.clear()
            self._outbox.close()
        self._report()

    def _start(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._work, name=f"rldk-{self.tracker.name}", daemon=True)
            try:
                thread.start()
            except RuntimeError as fault:
                # No more threads, or the interpreter is ending: what waits is on disk, or lost at close.
                self._count(fault)
                return
            self._thread = thread
            # A training that ends in an exception closes nothing; its last rows are those that tell why.
            atexit.register(self._close_at_exit)

    def _close_at_exit(self) -> None:
        self.close(_AT_EXIT_SECONDS)

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._is_due():
                    if self._is_done():
                        break
                    self._changed.wait(self._pause())
                if self._is_done():
                    break
            self._attempt()
        self._close_tracker()

    def _drain(self, limit: int | None) -> None:
        taken = 0
        while self._is_due() and not self._is_done() and (limit is None or taken < limit):
            self._attempt()
            taken += 1

    def _is_due(self) -> bool:
        return bool(self._queue or self._outbox.spilled) and self.tracker.joined and time.monotonic() >= self._due_at()

    def _enough(self) -> bool:
        """Whether what waits fills a write."""
        return self._outbox.spilled > 0 or len(self._queue) >= min(_FEW, self.tracker.batch)

    def _goes_on(self) -> bool:
        """Whether the next write follows at once, wherever in a step that is."""
        most = _BACKLOG if self.tracker.batch > 1 else 0
        return (self._outbox.spilled > 0 or len(self._queue) > most) and not self.tracker.in_process

    def _due_at(self) -> float:
        """When the next write may be made: after the pause that follows a fault, and at its pace."""
        paced = self.tracker.threaded and self._deadline is None and not self._flushing and not self._in_time
        return max(self._retry_at, self._paced_until + _PACE) if paced else self._retry_at

    def _is_done(self) -> bool:
        if self._deadline is None:
            return False
        nothing = not self._queue and not self._outbox.spilled
        return nothing or not self.tracker.joined or time.monotonic() >= self._deadline

    def _pause(self) -> float | None:
        """Seconds until something may have become due without anybody's notice, None for never."""
        if not (self._queue or self._outbox.spilled) or not self.tracker.joined:
            return None
        until = self._due_at() if self._deadline is None else min(self._retry_at, self._deadline)
        return max(0.0, until - time.monotonic())

    def _attempt(self) -> None:
        with self._changed:
            if not self._queue:
                self._queue.extend(self._outbox.read_back())
            if not self._queue:
                self.kept += self._outbox.give_up()
                return
            calls = self._in_flight = self._take()
            self._outbox.trying(calls)
            self._in_flight_since = time.monotonic()
            self._paced_until = self._in_flight_since + _PACE
            self._in_time = self._goes_on()
        try:
            self._hand_on(calls)
        except Exception as fault:  # noqa: BLE001 - no fault of a backend may reach the training
            self._failed(calls, fault)
            return
        with self._changed:
            self._in_flight_since = None
            if self._abandoned:
                return
            self._in_flight = []
            self.delivered += len(calls)
            if self._deadline is not None:  # it answers again: what waits may take its time
                self._deadline = self._answered_deadline
            self._tries = self._faults_in_row = 0
            self._single = max(0, self._single - 1)
            self._outbox.taken(calls)
            self._outbox.note_address()
            self._changed.notify_all()

    def _take(self) -> list[Call]:
        """The next call, or the next rows that the tracker writes at once."""
        calls = [self._queue.popleft()]
        most = 1 if self._single else self._at_once()
        while calls[0].method == "log" and len(calls) < most and self._queue and self._queue[0].method == "log":
            calls.append(self._queue.popleft())
        return calls

    def _at_once(self) -> int:
        """How many rows to write, of those that wait."""
        waited_for = self._deadline is not None or self._flushing or not self.tracker.threaded
        many = waited_for or (len(self._queue) >= _BACKLOG and not self.tracker.in_process)
        return self.tracker.batch if many else min(_FEW, self.tracker.batch)

    def _hand_on(self, calls: list[Call]) -> None:
        if self._resumed is not None:
            self._resumed.begin()
            calls = [call for call in calls if self._resumed.is_new(call.method, call.args)]
            if not calls:
                return
        if calls[0].method == "log":
            self.tracker.log_rows([Row(call.args[0], call.args[1], call.time) for call in calls])
        else:
            getattr(self.tracker, calls[0].method)(*calls[0].args)

    def _failed(self, calls: list[Call], fault: Exception) -> None:
        self._count(fault)
        with self._changed:
            self._in_flight_since = None
            if self._abandoned:
                return
            self._in_flight = []
            self._tries += 1
            self._faults_in_row += 1
            may_pass = isinstance(fault, (UnavailableError, OSError)) or self._tries < self._attempts
            if may_pass and not isinstance(fault, RejectedError):
                self._queue.extendleft(reversed(calls))
            elif len(calls) > 1:
                # One of them is the bad one: the others must not be thrown away with it.
                self._queue.extendleft(reversed(calls))
                self._single, self._tries = len(calls), 0
            else:
                self._tries = 0
                on_disk = self._outbox.reject(calls)
                self.kept += len(calls) if on_disk else 0
                self.lost += 0 if on_disk else len(calls)
                self._single = max(0, self._single - 1)
            pause = min(self._backoff * 2.0 ** min(self._faults_in_row - 1, 30), self._backoff_limit)
            self._retry_at = time.monotonic() + pause
            self._changed.notify_all()

    def _close_tracker(self) -> None:
        try:
            self.tracker.close()
        except Exception as fault:  # noqa: BLE001 - no fault of a backend may reach the training
            self._count(fault)

    def _is_taken_at_all(self, method: str) -> bool:
        own = getattr(type(self.tracker), method, None)
        return own is None or (own is not getattr(Tracker, method) and (method != "log" or self.tracker.takes_rows))

    def _leave(self, calls: list[Call]) -> None:
        """Count what stays in the spool, after another try to get it there."""
        for call in calls:
            again = call if call.position is not None else self._outbox.store(call.method, call.args, call.time)
            stored = again.position is not None
            self.kept += stored
            self.lost += not stored

    def _tried(self, work: Callable[[], T], /) -> T | None:
        """What came of some work on disk, None where it failed: a full disk is no reason to end a training either."""
        try:
            return work()
        except Exception as fault:  # noqa: BLE001 - whatever was done to the file
            self._count(fault)
            return None

    def _count(self, fault: Exception) -> None:
        self.errors += 1
        kind = type(fault).__name__
        if kind in self._logged:
            return
        self._logged.add(kind)
        cause = _CREDENTIALS.sub("***", f"{kind}: {fault}")[:500]
        logger.warning(
            "%s does not take what it is given: %s. Training goes on; this is said once.", self.tracker.name, cause
        )

    def _report(self) -> None:
        places = self._outbox.places
        if self.kept and places:
            logger.warning(
                "%d calls did not reach %s and wait in %s; `rldk-tracking sync %s` sends them when it answers.",
                self.kept,
                self.tracker.name,
                " and ".join(map(str, places)),
                places[0].parent,
            )
        if self.lost:
            logger.warning("%d calls did not reach %s and are lost.", self.lost, self.tracker.name)
