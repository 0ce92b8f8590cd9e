"""What a destination would not take: noted, and asked for once more at the end and by a later `sync`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

from rldk_tracking.journal.attempts import Attempts, OutOfTimeError, discreet
from rldk_tracking.journal.offset import Offset
from rldk_tracking.journal.reader import Entry, Lines, read, read_all
from rldk_tracking.trackers.base import LostAnswerError, RejectedError, Tracker
from rldk_tracking.trackers.records import Call


class Refusals:
    """The refusals of one destination.

    Args:
        offset: where they are noted.
        lines: the journal.
        attempts: makes calls.
        log: where each kind is told once.
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

    def repeat(self, tracker: Tracker, most_failures: float, count: Callable[[int], None]) -> None:
        """What was refused may be taken now, as by a run that was deleted and restored.

        Args:
            tracker: the destination's.
            most_failures: after so many it is given up.
            count: told of calls that are taken.

        Raises:
            OutOfTimeError: there is no more time.
        """
        self._repeat_ranges(tracker, most_failures, count)
        self._repeat_calls(tracker, most_failures, count)

    def _repeat_ranges(self, tracker: Tracker, most_failures: float, count: Callable[[int], None]) -> None:
        ranges, self._offset.rejected = self._offset.rejected, []
        failures = 0
        for start, end, why in ranges:
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
