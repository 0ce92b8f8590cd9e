"""Makes a destination's calls until they are taken, refused, or time is up; what is refused is asked again later."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from functools import partial

from tenacity import RetryCallState, RetryError, Retrying, retry_if_exception, wait_exponential

from rldk_tracking.charts.announce import announce
from rldk_tracking.journal.offset import Offset
from rldk_tracking.journal.reader import Entry, Lines, read, read_all
from rldk_tracking.trackers.base import LostAnswerError, RefusedError, RejectedError, Tracker, UnavailableError
from rldk_tracking.trackers.records import Call

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
        log: where each kind of fault is logged once.
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


class Refusals:
    """The refusals of one destination.

    Args:
        offset: where they are noted.
        lines: the journal.
        attempts: makes calls.
        log: where each kind is logged once.
    """

    def __init__(self, offset: Offset, lines: Lines, attempts: Attempts, log: logging.Logger) -> None:
        self._offset, self._lines, self._attempts, self._log = offset, lines, attempts, log
        self._said: set[str] = set()

    def note(self, entry: Entry, part: int, error: RejectedError) -> None:
        """The call of this number in an entry was refused, or nobody knows whether it arrived."""
        offset, why = self._offset, discreet(error)
        offset.errors += 1
        offset.fault = why
        if isinstance(error, LostAnswerError):
            offset.uncertain += 1
        elif self._attempts.repeatable:
            offset.reject(entry.start, entry.end, why[:200])
        else:
            offset.refused_calls.append((entry.start, part))
        if why not in self._said:
            self._said.add(why)
            self._log.warning("Refused for good, and passed over (from byte %d on): %s", entry.start, why)
            if not self._attempts.repeatable:  # people wait for it
                announce(f"a message was not sent: {_SECRETS.sub('***', str(error))}")

    def repeat(self, tracker: Tracker, most_failures: float, count: Callable[[int], None]) -> None:
        """What was refused may be taken now, as by a run that was deleted and restored.

        Args:
            tracker: the destination's.
            most_failures: after so many it is given up.
            count: takes the number of calls that were taken.

        Raises:
            OutOfTimeError: there is no more time.
        """
        self._repeat_ranges(tracker, most_failures, count)
        self._repeat_calls(tracker, most_failures, count)

    def _repeat_ranges(self, tracker: Tracker, most_failures: float, count: Callable[[int], None]) -> None:
        ranges, self._offset.rejected = self._offset.rejected, []
        failures = 0
        for number, (start, end, why) in enumerate(ranges, 1):
            for entry in read_all(self._lines, start, end):
                if failures >= most_failures:
                    self._offset.reject(entry.start, end, why)
                    break
                for part, call in enumerate(entry.calls):
                    again = partial(tracker.log_rows, [entry.row]) if call[0] == "log" else _made(tracker, call)
                    try:
                        self._attempts.make(again)
                        count(1)
                    except RejectedError as error:
                        failures += 1
                        self.note(entry, part, error)
                    except OutOfTimeError:  # a later `sync` asks again
                        self._offset.rejected += [(entry.start, end, why), *ranges[number:]]
                        raise

    def _repeat_calls(self, tracker: Tracker, most_failures: float, count: Callable[[int], None]) -> None:
        """One by one, and none twice: where this process is killed in a call, it may have arrived."""
        offset, waiting, failures = self._offset, self._offset.refused_calls, 0
        for index, (position, part) in enumerate(waiting):
            entry = next(read(self._lines, position), None)
            if failures >= most_failures or entry is None or part >= len(entry.calls):
                continue
            still = offset.refused_calls
            offset.refused_calls = [pair for pair in still if pair != waiting[index]]
            offset.save()
            try:
                self._attempts.make(_made(tracker, entry.calls[part]))
                count(1)
            except RejectedError as error:
                failures += 1
                self.note(entry, part, error)
            except OutOfTimeError:
                offset.refused_calls = still  # it did not arrive
                raise


def _made(tracker: Tracker, call: Call) -> Callable[[], None]:
    method, args = call
    return partial(getattr(tracker, method), *args)
