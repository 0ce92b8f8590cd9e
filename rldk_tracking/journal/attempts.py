"""Makes a destination's calls until they are taken, refused, or time is up."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable

from tenacity import RetryCallState, RetryError, Retrying, retry_if_exception, wait_exponential

from rldk_tracking.journal.offset import Offset
from rldk_tracking.trackers.base import LostAnswerError, RefusedError, RejectedError, UnavailableError

UNKNOWN_ATTEMPTS = 5
"""How often a call is made that fails in an unknown way."""
LONGEST_PAUSE_S = 30.0
_SECRETS = re.compile(r"(?<=://)[^/\s@]+@|(?<=hooks\.slack\.com/)[^\s'\")]+")


class OutOfTimeError(Exception):
    """There is no more time for this destination, or another process is to go on with it."""


class Deadline:
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

    @property
    def is_out_of_time(self) -> bool:
        """Whether to give up."""
        return self._stopped or (self._deadline is not None and time.monotonic() >= self._deadline)

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


class Attempts:
    """The calls of one destination.

    Args:
        offset: where faults are noted.
        deadline: how much time there is.
        log: where each kind of fault is told once.
        hands_back: whether the training's process goes on with a destination that takes no credentials of this one.

    Attributes:
        repeatable: whether a call that fails in an unknown way may be made again.
        was_let_in: whether the destination has taken something, so that the credentials are right.
    """

    def __init__(self, offset: Offset, deadline: Deadline, log: logging.Logger, hands_back: bool) -> None:
        self.repeatable = True
        self.was_let_in = False
        self._offset = offset
        self._deadline = deadline
        self._log = log
        self._hands_back = hands_back
        self._logged: set[str] = set()
        self._unknown = 0

    def make(self, call: Callable[[], None]) -> None:
        """Make a call until it is taken.

        Raises:
            RejectedError: it never will be.
            OutOfTimeError: there is no more time.
        """
        self._unknown = 0
        retrying = Retrying(
            retry=retry_if_exception(self._may_pass),
            wait=wait_exponential(multiplier=0.5, max=LONGEST_PAUSE_S),
            stop=self._must_stop,
            sleep=self._deadline.sleep,
            before_sleep=self._note,
        )
        try:
            retrying(call)
        except RetryError as gave_up:
            fault = gave_up.last_attempt.exception()
            self._note_fault(fault)
            if self._unknown and not self._deadline.is_out_of_time:
                kind = RejectedError if self.repeatable else LostAnswerError
                raise kind(f"{type(fault).__name__}: {fault}") from fault
            raise OutOfTimeError from fault
        if self._offset.down_since is not None:
            self._offset.down_since = None
            self._log.info("It answers again.")
            self._logged.clear()

    def _may_pass(self, fault: BaseException) -> bool:
        if isinstance(fault, RejectedError) or not isinstance(fault, Exception):
            return False
        if isinstance(fault, RefusedError) and self._hands_back and not self.was_let_in:
            self._note_fault(fault)
            self._offset.refused = True
            raise OutOfTimeError from fault
        if not isinstance(fault, (UnavailableError, OSError)) and not _is_shortage(fault):
            self._unknown += 1
        return True

    def _must_stop(self, state: RetryCallState) -> bool:
        most = UNKNOWN_ATTEMPTS if self.repeatable else 1
        return self._deadline.is_out_of_time or self._unknown >= most

    def _note(self, state: RetryCallState) -> None:
        self._note_fault(state.outcome.exception() if state.outcome is not None else None)

    def _note_fault(self, fault: BaseException | None) -> None:
        offset = self._offset
        offset.errors += 1
        offset.fault = discreet(fault)
        offset.down_since = offset.down_since or time.time()
        if offset.fault not in self._logged:
            self._logged.add(offset.fault)
            self._log.warning("A call failed, and is repeated: %s", offset.fault)
        offset.save()


def _is_shortage(fault: Exception) -> bool:
    """Whether a client found no thread for its work, in Python's words; there may be one later."""
    return isinstance(fault, RuntimeError) and "can't start new thread" in str(fault)


def discreet(fault: BaseException | None) -> str:
    """A fault in words without credentials."""
    return _SECRETS.sub("***", f"{type(fault).__name__}: {fault}")[:500]
