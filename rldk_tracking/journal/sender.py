"""Sends a journal to one destination, from where that one's offset says, for as long as there is time.

What the destination takes in bulk goes in bulk. A fault that may pass is waited out, with pauses that double; what is
refused for good is passed over and noted. Before a call that must not be made twice the offset says that it is made.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rldk_tracking.charts.announce import announce, announced_by
from rldk_tracking.journal.attempts import Attempts, Deadline, OutOfTimeError, Refusals, discreet
from rldk_tracking.journal.offset import Offset
from rldk_tracking.journal.reader import Entry, Lines, read, read_all
from rldk_tracking.trackers.base import RejectedError, Tracker
from rldk_tracking.trackers.records import Call, run_info

_PAUSE_S = 0.2
"""Seconds between two looks for more lines."""
_FEW_FAILURES = 2
_MUCH_BYTES = 1 << 19
"""After so much at once there is more: no pause."""


class Sender:
    """One destination of one journal.

    Args:
        name: its id.
        connect: makes its tracker, out of the address that is known by now. May fail as a call may.
        lines: the journal.
        offset: what the destination has taken.
        deadline: what is known of the training, and how much time there is.
        log: where to say what happens.
        hands_back: whether the training's process goes on with a destination that takes no credentials of this one.

    Attributes:
        delivered: calls that were taken.
        repeats_rejected: try again what was refused before.
        said_crashed: whether the destination took from here that the training crashed.
    """

    def __init__(
        self,
        name: str,
        connect: Callable[[Mapping[str, str]], Tracker],
        lines: Lines,
        offset: Offset,
        deadline: Deadline,
        log: logging.Logger,
        hands_back: bool = False,
    ) -> None:
        self.name = name
        self.tracker: Tracker | None = None
        self.offset = offset
        self.delivered = 0
        self.repeats_rejected = self.said_crashed = False
        self._connect = connect
        self._lines = lines
        self._deadline = deadline
        self._log = log
        self._attempts = Attempts(offset, deadline, log, hands_back)
        self._refusals = Refusals(offset, lines, self._attempts, log)
        self._status: tuple[str, int] | None = None
        self._last_step = 0
        self._has_ended = False
        self._begun: tuple[Any, Any] = (None, None)

    def run(self) -> None:
        """Deliver until all is delivered and the training is over, or time is up."""
        with announced_by(self.offset.say):
            try:
                self._join()
                if self.repeats_rejected:
                    self._refusals.repeat(self._opened(), math.inf, self._count)
                while not self._follow():
                    pass
            except OutOfTimeError:
                pass
            except RejectedError as error:
                self.offset.fault, self.offset.down_since = discreet(error), time.time()
                self._log.warning("Nothing can be sent there: %s", self.offset.fault)
                announce(f"nothing can be sent to {self.name}: {self.offset.fault.removeprefix('RejectedError: ')}")
        self.offset.save()

    def _join(self) -> None:
        """Make the tracker, and tell it what was written before."""
        aligned = self._lines.aligned(self.offset.position)
        if aligned != self.offset.position:
            self.offset.move(aligned)
        self._attempts.make(self._open)
        tracker = self._opened()
        if self.offset.position:
            tracker.restore(self._past())
        self._note_run()

    def _open(self) -> None:
        begin = next((entry.record for entry in read(self._lines) if entry.record.get("type") == "begin"), {})
        info = run_info(begin)
        try:
            tracker = self._connect(self.offset.to)
        except (ValueError, ImportError) as error:
            raise RejectedError(str(error)) from error
        tracker.open(info)
        self.tracker = tracker
        self._attempts.repeatable = tracker.repeatable

    def _past(self) -> Iterator[Call]:
        refused = set(self.offset.refused_calls)
        for entry in read_all(self._lines, until=self.offset.position):
            self._note_record(entry)
            yield from (call for part, call in enumerate(entry.calls) if (entry.start, part) not in refused)

    def _follow(self) -> bool:
        """Deliver what has come. Returns whether that was all, for good."""
        entries = list(read(self._lines, self.offset.position))
        if entries:
            self._take(entries)
            self._note_run()
            self.offset.save()
            if not self._has_ended and entries[-1].end - entries[0].start < _MUCH_BYTES:
                self._deadline.sleep(_PAUSE_S)
            return False
        if self._lines.replaced():
            self.offset.move(0)
            return False
        self._attempts.make(self._opened().flush)
        if self._is_over():
            # What was written before this was seen is there by now.
            if any(True for _ in read(self._lines, self.offset.position)):
                return False
            self._close()
            return True
        if self._deadline.is_out_of_time:
            raise OutOfTimeError
        self._deadline.sleep(_PAUSE_S)
        return self._deadline.is_out_of_time

    def _is_over(self) -> bool:
        return self._deadline.is_end_judged if self._has_ended else self._deadline.has_left(self._begun)

    def _take(self, entries: Sequence[Entry]) -> None:
        rows: list[Entry] = []
        for entry in entries:
            begins_with_row = bool(entry.calls) and entry.calls[0][0] == "log"
            if not begins_with_row or (self.offset.part and entry.start == self.offset.position):
                self._send_rows(rows)
                self._send_calls(entry)
                continue
            rows.append(entry)
            if len(entry.calls) > 1:
                self._send_rows(rows)
                self._send_calls(entry)
            elif len(rows) >= self._opened().rows_per_call:
                self._send_rows(rows)
        self._send_rows(rows)

    def _send_rows(self, entries: list[Entry]) -> None:
        """The rows of these entries, which are emptied."""
        if not entries:
            return
        batch = [*entries]
        entries.clear()
        for entry in batch:
            self._note_record(entry)
        if self._opened().takes_rows and not self._send_batch(batch):
            for entry in batch:
                self._send_batch([entry])
        last = batch[-1]
        if len(last.calls) == 1:
            self.offset.move(last.end)
        else:
            self.offset.move(last.start)
            self.offset.part = 1

    def _send_batch(self, batch: Sequence[Entry]) -> bool:
        """False where several rows were refused at once, so that it is not known which."""
        rows = [entry.row for entry in batch]
        try:
            self._attempts.make(lambda: self._opened().log_rows(rows))
        except RejectedError as error:
            if len(batch) == 1:
                self._refusals.note(batch[0], 0, error)
            return len(batch) == 1
        self._count(len(batch))
        return True

    def _send_calls(self, entry: Entry) -> None:
        """What an entry asks for apart from its row, and move on."""
        offset, tracker = self.offset, self._opened()
        self._note_record(entry)
        if entry.problem is not None:
            self._note_skipped(entry)
        while offset.part < len(entry.calls):
            method, args = entry.calls[offset.part]
            if self._is_asked_for(method, args):
                if offset.trying:
                    self._log.warning("A call of step %d may have arrived, and is not repeated.", self._last_step)
                    offset.uncertain += 1
                else:
                    self._send_call(entry, getattr(tracker, method), args)
            offset.part, offset.trying = offset.part + 1, False
            if not tracker.repeatable:
                offset.save()
        offset.move(entry.end)

    def _send_call(self, entry: Entry, method: Callable[..., None], args: tuple[Any, ...]) -> None:
        if not self._opened().repeatable:
            self.offset.trying = True
            self.offset.save()
        try:
            self._attempts.make(lambda: method(*args))
            self._count(1)
        except RejectedError as error:
            self._refusals.note(entry, self.offset.part, error)
        except OutOfTimeError:
            self.offset.trying = False  # it did not arrive
            raise

    def _count(self, calls: int) -> None:
        self.delivered += calls
        self._attempts.was_let_in = True

    def _is_asked_for(self, method: str, args: tuple[Any, ...]) -> bool:
        """Whether the tracker does anything for it, and has not done it just now."""
        if getattr(type(self._opened()), method) is getattr(Tracker, method):
            return False
        if method == "status":
            same = self._status == (args[0], args[2])
            self._status = (args[0], args[2])
            return not same
        return method != "log" or self._opened().takes_rows

    def _note_record(self, entry: Entry) -> None:
        """What a record says of the training itself."""
        kind = entry.record.get("type")
        if kind == "begin":
            self._has_ended = False
            self._begun = (entry.record.get("pid"), entry.record.get("created"))
            self.offset.closed = self.offset.closed and entry.start < self.offset.position
        elif kind == "end":
            self._has_ended = True
        for method, args in entry.calls:
            if method == "log":
                self._last_step = args[1]

    def _close(self) -> None:
        if not self.offset.closed:
            tracker = self._opened()
            self._refusals.repeat(tracker, _FEW_FAILURES, self._count)
            try:
                if not self._has_ended:
                    self._attempts.make(lambda: tracker.status("crashed", {}, self._last_step))
                    self.said_crashed = tracker.takes_rows and type(tracker).status is not Tracker.status
                self._attempts.make(tracker.close)
            except RejectedError as error:
                self._log.warning("The end of the run is refused: %s", discreet(error))
            self.offset.closed = True
        self._note_run()

    def _note_skipped(self, entry: Entry) -> None:
        self.offset.skip(entry.start, str(entry.problem))
        self._log.warning("The line at byte %d is passed over: %s.", entry.start, entry.problem)

    def _note_run(self) -> None:
        tracker = self._opened()
        self.offset.to, self.offset.url = dict(tracker.address()), tracker.url()

    def _opened(self) -> Tracker:
        if self.tracker is None:
            raise OutOfTimeError
        return self.tracker
