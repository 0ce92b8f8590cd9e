"""What the senders of one journal need to know beside it: whether the training lives, and how much time there is."""

from __future__ import annotations

import threading
import time

import psutil

ACTIVE_PAUSE_S = 0.2
IDLE_PAUSE_S = 1.0
_HURRY_PAUSE_S = 0.05
_HURRY_S = 60.0
_SAME_START_S = 2.0
"""Within these two start times of a process are the same."""


class Watch:
    """Shared by the senders of one journal and the thread that follows it.

    Args:
        identity: number and start of the training's process; None for whichever wrote last.

    Attributes:
        is_gone: that process is gone, and everything that is to be said of that is in the journal.
        is_end_judged: the same of the end that the training itself wrote.
    """

    def __init__(self, identity: tuple[int, float] | None = None) -> None:
        self.is_gone = self.is_end_judged = False
        self._identity = identity
        self._deadline: float | None = None
        self._stopped = False
        self._changed = threading.Condition()
        self._hurries_until = 0.0

    def has_left(self, begun: tuple[object, object]) -> bool:
        """Whether the process that began last is gone; it may be another than this one, and train still."""
        return self.is_gone and (self._identity is None or self._identity == begun)

    def limit(self, seconds: float) -> None:
        """There is so much time from now on. A longer limit than the one that there is changes nothing."""
        deadline = time.monotonic() + seconds
        if self._deadline is None or deadline < self._deadline:
            self._deadline = deadline
            self._wake()

    def stop(self) -> None:
        """There is no more time."""
        self._stopped = True
        self._wake()

    def hurry(self) -> None:
        """Somebody waits for the end of the journal."""
        self._hurries_until = time.monotonic() + _HURRY_S
        self._wake()

    @property
    def is_out_of_time(self) -> bool:
        """Whether to give up."""
        return self._stopped or (self._deadline is not None and time.monotonic() >= self._deadline)

    def pause(self, active: bool) -> None:
        """Wait a moment for more lines: shorter where there have just been some, or where somebody waits."""
        hurries = time.monotonic() < self._hurries_until
        self.sleep(_HURRY_PAUSE_S if hurries else ACTIVE_PAUSE_S if active else IDLE_PAUSE_S)

    def sleep(self, seconds: float) -> None:
        """Wait, at most until time is up."""
        if self._deadline is not None:
            seconds = max(0.0, min(seconds, self._deadline - time.monotonic()))
        with self._changed:
            if not self._stopped:
                self._changed.wait(seconds)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


class Trainer:
    """The process that trains.

    Args:
        pid, created: its number, and when it started, in seconds since the epoch.
    """

    def __init__(self, pid: int, created: float) -> None:
        self._process: psutil.Process | None = None
        try:
            process = psutil.Process(pid)
            if abs(process.create_time() - created) < _SAME_START_S:
                self._process = process
        except (psutil.Error, OSError, ValueError, OverflowError):
            pass

    @property
    def is_alive(self) -> bool:
        """Whether it is there still. One that has ended but was not asked for its exit code is not."""
        try:
            return (
                self._process is not None
                and self._process.is_running()
                and self._process.status() != psutil.STATUS_ZOMBIE
            )
        except psutil.NoSuchProcess:
            return False
        except psutil.Error:
            return True
