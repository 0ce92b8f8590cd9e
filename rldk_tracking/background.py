"""One thread that computes and judges beside the training, in order, with a bound on how far it may fall behind."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from rldk_tracking.isolation import Shield

BEHIND = 4
"""Steps that may wait. Each holds its rollout, so a worker that is slower than the training must slow it down."""

HOLD = 0.02
"""Seconds that work waits for the training thread to be through with the events between two steps. Both need the
interpreter, and a thread that computes gives it up only every 5 ms; in the step itself the training mostly waits for
the device."""


class Background:
    """Runs what it is given, one after the other, on one daemon thread that is started when there is work.

    Args:
        shield: keeps faults of the work from ending the thread.

    Attributes:
        shield: the same. The work may use it too, as it runs alone.
    """

    def __init__(self, shield: Shield) -> None:
        self.shield = shield
        self._work: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._busy = False
        self._awaited = 0
        self._held_until = 0.0
        self._closed = False
        self._thread: threading.Thread | None = None

    def submit(self, work: Callable[[], None]) -> None:
        """Have `work` run when the next step is under way, or soon.

        Waits while `BEHIND` steps are waiting already, so that memory stays bounded.
        """
        with self._changed:
            self._changed.wait_for(lambda: len(self._work) < BEHIND or self._closed)
            if not self._work:
                self._held_until = time.monotonic() + HOLD
            self._append(work)

    def offer(self, work: Callable[[], None]) -> bool:
        """Have `work` run at once, unless other work waits already; returns whether it will. Never waits."""
        with self._changed:
            if self._work or self._closed:
                return False
            self._held_until = 0.0
            self._append(work)
            return True

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing is being done."""
        with self._changed:
            return not self._work and not self._busy

    def release(self) -> None:
        """The next step is under way: what waits may run."""
        with self._changed:
            self._held_until = 0.0
            self._changed.notify_all()

    def settle(self) -> None:
        """Wait until everything that was submitted has run. From within the work itself this returns at once."""
        if threading.current_thread() is self._thread:
            return
        self.release()
        with self._changed:
            self._awaited += 1
            try:
                self._changed.wait_for(lambda: self.is_idle)
            finally:
                self._awaited -= 1

    def is_awaited(self) -> bool:
        """Whether somebody waits for the work, which then has no reason to wait for others."""
        return self._awaited > 0

    def close(self) -> None:
        """Finish what waits and end the thread."""
        self.settle()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None and threading.current_thread() is not self._thread:
            self._thread.join()
        self._thread = None
        self._closed = False

    def _append(self, work: Callable[[], None]) -> None:
        self._work.append(work)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="rldk-judge", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._is_due():
                    if self._closed and not self._work:
                        return
                    self._changed.wait(self._held_until - time.monotonic() if self._work else None)
                work = self._work.popleft()
                self._busy = True
            with self.shield.at("judging a step"):
                work()
            del work
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def _is_due(self) -> bool:
        return bool(self._work) and (time.monotonic() >= self._held_until or len(self._work) == BEHIND)
