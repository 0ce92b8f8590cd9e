"""Makes a destination's calls until they are taken, refused, or time is up."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable

from tenacity import RetryCallState, RetryError, Retrying, retry_if_exception, wait_exponential

from rldk_tracking.journal.offset import Offset
from rldk_tracking.journal.watch import Watch
from rldk_tracking.trackers.base import LostAnswerError, RefusedError, RejectedError, UnavailableError

UNKNOWN_ATTEMPTS = 5
"""How often a call is made that fails in an unknown way."""
LONGEST_PAUSE_S = 30.0
_SECRETS = re.compile(r"(?<=://)[^/\s@]+@|(?<=hooks\.slack\.com/)[^\s'\")]+")


class OutOfTimeError(Exception):
    """There is no more time for this destination, or another process is to go on with it."""


class Attempts:
    """The calls of one destination.

    Args:
        offset: where faults are noted.
        watch: how much time there is.
        log: where each kind of fault is told once.
        hands_back: whether the training's process goes on with a destination that takes no credentials of this one.

    Attributes:
        repeatable: whether a call that fails in an unknown way may be made again.
        was_let_in: whether the destination has taken something, so that the credentials are right.
    """

    def __init__(self, offset: Offset, watch: Watch, log: logging.Logger, hands_back: bool) -> None:
        self.repeatable = True
        self.was_let_in = False
        self._offset = offset
        self._watch = watch
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
            sleep=self._watch.sleep,
            before_sleep=self._note,
        )
        try:
            retrying(call)
        except RetryError as gave_up:
            fault = gave_up.last_attempt.exception()
            self._note_fault(fault)
            if self._unknown and not self._watch.is_out_of_time:
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
        return self._watch.is_out_of_time or self._unknown >= most

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
