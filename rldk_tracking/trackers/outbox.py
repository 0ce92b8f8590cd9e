"""What one tracker has not taken yet, on disk: calls are written when they are made and marked when they are taken.

Nothing here raises: a disk that is full or gone is told to whoever asked, and the training goes on.
"""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rldk_tracking.trackers.base import Tracker
from rldk_tracking.trackers.journal import Journal, decode, encode
from rldk_tracking.trackers.spool import Spool

_READ_BACK = 50
"""Calls that are read back from disk at once: a batch's worth, in little time."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a tracker's.

    Attributes:
        method, args, time: what is to be called, and when that was asked for.
        position: behind it in the spool; None where it is not there.
    """

    method: str
    args: tuple[Any, ...]
    time: float
    position: int | None


class Outbox:
    """The calls of one tracker on disk, or nothing where there is no disk for them.

    Args:
        tracker: whose calls they are.
        spool: where to write, None for nowhere. One that another process left has calls already.
        told: takes the faults.

    Attributes:
        spilled: calls that wait on disk alone, because they did not fit into memory.
        rejected: the journal of what the tracker will never take, once there is one.
    """

    def __init__(
        self, tracker: Tracker, spool: str | os.PathLike[str] | Spool | None, told: Callable[[Exception], None]
    ) -> None:
        self._tracker = tracker
        self._told = told
        self.spool = Spool(spool, tracker.name) if isinstance(spool, (str, os.PathLike)) else spool
        self.spilled = 0
        self.rejected: Path | None = None
        self._spilled_from = 0
        self._settling: deque[tuple[float, int]] = deque()
        if isinstance(spool, Spool):
            self._spilled_from = spool.first
            self.spilled = sum(record["type"] != "address" for record, _ in spool.read(spool.first))

    @property
    def places(self) -> list[Path]:
        """The files in which something waits."""
        files = (None if self.spool is None else self.spool.path, self.rejected)
        return [path for path in files if path is not None and path.exists()]

    def store(self, method: str, args: tuple[Any, ...], now: float) -> Call:
        """Write a call down, if that can be."""
        position = None
        if self.spool is not None:
            try:
                if method == "log":
                    self.spool.note(step=int(args[1]))
                self.note_address()
                position = self.spool.append([encode(method, args, now)])
            except Exception as fault:  # noqa: BLE001 - a full disk is no reason to end a training either
                self._told(fault)
        return Call(method, args, now, position)

    def end(self) -> int:
        """Where the next call will be written; with `spill` the first that waits on disk alone begins there."""
        return self._spilled_from if self.spool is None or self.spilled else self.spool.end

    def spill(self, start: int) -> None:
        """The call that was written last, from `start` on, waits on disk alone."""
        self._spilled_from = start
        self.spilled += 1

    def read_back(self) -> list[Call]:
        """The next calls that wait on disk alone, none where they cannot be read any more."""
        if not self.spilled or self.spool is None:
            return []
        calls = []
        try:
            for record, position in self.spool.read(self._spilled_from, limit=_READ_BACK):
                self._spilled_from = position
                if record["type"] != "address":
                    calls.append(Call(*decode(record), record["time"], position))
        except Exception as fault:  # noqa: BLE001 - whatever was done to the file
            self._told(fault)
        self.spilled = max(0, self.spilled - len(calls))
        return calls

    def give_up(self) -> int:
        """Leave what waits on disk alone to another process. Returns how many calls those are."""
        left, self.spilled = self.spilled, 0
        return left

    def note_address(self) -> None:
        """Write down which run the calls are for, as far as the tracker knows by now."""
        if self.spool is None:
            return
        try:
            self.spool.note(to=self._tracker.address())
        except Exception as fault:  # noqa: BLE001 - a full disk is no reason to end a training either
            self._told(fault)

    def trying(self, calls: Sequence[Call]) -> None:
        """The tracker is being given these: should the process end now, nobody knows whether it has them."""
        position = _last(calls)
        if self.spool is None or position is None:
            return
        try:
            self.spool.trying(position)
        except OSError as fault:
            self._told(fault)

    def taken(self, calls: Sequence[Call]) -> None:
        """The tracker has taken these; they are let go of when they are safe with it."""
        position = _last(calls)
        if self.spool is None or position is None:
            return
        self._settling.append((time.monotonic() + self._tracker.settles, position))
        self._settle(time.monotonic())

    def reject(self, calls: Sequence[Call]) -> bool:
        """Put aside what the tracker will never take. Returns whether it is on disk."""
        if self.spool is None:
            return False
        origin: dict[str, Any] = {"tracker": self._tracker.name, "to": dict(self._tracker.address())}
        journal = Journal(self.spool.path.with_name(f"rejected-{self._tracker.name}.jsonl"))
        try:
            journal.append([origin | encode(call.method, call.args, call.time) for call in calls])
            self.rejected = journal.path
            return True
        except Exception as fault:  # noqa: BLE001 - a full disk is no reason to end a training either
            self._told(fault)
            return False
        finally:
            journal.close()
            self.taken(calls)

    def close(self) -> None:
        """Let go of what was taken; the rest stays in the file."""
        self._settle(math.inf)
        if self.spool is not None:
            try:
                self.spool.close()
            except OSError as fault:
                self._told(fault)

    def _settle(self, now: float) -> None:
        position = None
        while self._settling and self._settling[0][0] <= now:
            position = self._settling.popleft()[1]
        if self.spool is None or position is None:
            return
        try:
            self.spool.taken(position)
        except OSError as fault:
            self._told(fault)


def _last(calls: Sequence[Call]) -> int | None:
    return max((call.position for call in calls if call.position is not None), default=None)
