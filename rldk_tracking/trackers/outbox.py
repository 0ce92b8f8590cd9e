"""What one tracker has not taken yet, on disk: calls are written when they are made and marked when they are taken.

A disk that is full or gone is no reason to end a training: whatever is done to the file goes through `tried`, the
delivery's own shield.
"""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rldk_tracking.trackers.base import Tracker
from rldk_tracking.trackers.journal import Journal, decode, encode
from rldk_tracking.trackers.spool import Spool

_READ_BACK = 50
"""Calls that are read back from disk at once: a batch's worth, in little time."""


T = TypeVar("T")


class Tried(Protocol):
    """Does some work. Returns None where it raised, and has told of that."""

    def __call__(self, work: Callable[[], T], /) -> T | None: ...


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
        tried: takes the faults.

    Attributes:
        spilled: calls that wait on disk alone, because they did not fit into memory.
        rejected: the journal of what the tracker will never take, once there is one.
    """

    def __init__(self, tracker: Tracker, spool: str | os.PathLike[str] | Spool | None, tried: Tried) -> None:
        self._tracker = tracker
        self._tried = tried
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
        return Call(method, args, now, self._tried(lambda: self._append(method, args, now)))

    def hold(self, metrics: Mapping[str, float], step: int) -> None:
        """Keep what is known of a step while its row is computed."""
        spool = self.spool
        if spool is not None:
            self._tried(lambda: spool.hold(encode("hold", (metrics, step), time.time())))

    def let_go(self) -> None:
        """The oldest step that is held has its row."""
        if self.spool is not None:
            self.spool.let_go()

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
        calls: list[Call] = []
        self._tried(lambda: self._read_into(calls))
        self.spilled = max(0, self.spilled - len(calls))
        return calls

    def give_up(self) -> int:
        """Leave what waits on disk alone to another process. Returns how many calls those are."""
        left, self.spilled = self.spilled, 0
        return left

    def note_address(self) -> None:
        """Write down which run the calls are for, as far as the tracker knows by now."""
        spool = self.spool
        if spool is not None:
            self._tried(lambda: spool.note(to=self._tracker.address()))

    def trying(self, calls: Sequence[Call]) -> None:
        """The tracker is being given these: should the process end now, nobody knows whether it has them."""
        spool, position = self.spool, _last(calls)
        if spool is not None and position is not None:
            self._tried(lambda: spool.trying(position))

    def taken(self, calls: Sequence[Call]) -> None:
        """The tracker has taken these; they are let go of when they are safe with it."""
        position = _last(calls)
        if self.spool is None or position is None:
            return
        self._settling.append((time.monotonic() + self._tracker.settles, position))
        self._settle(time.monotonic())

    def reject(self, calls: Sequence[Call]) -> bool:
        """Put aside what the tracker will never take. Returns whether it is on disk."""
        spool = self.spool
        if spool is None:
            return False
        aside = self._tried(lambda: self._put_aside(spool.path, calls))
        self.taken(calls)
        self.rejected = aside or self.rejected
        return aside is not None

    def close(self) -> None:
        """Let go of what was taken; the rest stays in the file."""
        self._settle(math.inf)
        if self.spool is not None:
            self._tried(self.spool.close)

    def _append(self, method: str, args: tuple[Any, ...], now: float) -> int | None:
        if self.spool is None:
            return None
        if method == "log":
            self.spool.note(step=int(args[1]))
        self.note_address()
        return self.spool.append([encode(method, args, now)])

    def _read_into(self, calls: list[Call]) -> None:
        if self.spool is None:
            return
        for record, position in self.spool.read(self._spilled_from, limit=_READ_BACK):
            self._spilled_from = position
            if record["type"] != "address":
                calls.append(Call(*decode(record), record["time"], position))

    def _put_aside(self, spool: Path, calls: Sequence[Call]) -> Path:
        origin: dict[str, Any] = {"tracker": self._tracker.name, "to": dict(self._tracker.address())}
        journal = Journal(spool.with_name(f"rejected-{self._tracker.name}.jsonl"))
        try:
            journal.append([origin | encode(call.method, call.args, call.time) for call in calls])
        finally:
            journal.close()
        return journal.path

    def _settle(self, now: float) -> None:
        spool, position = self.spool, None
        while self._settling and self._settling[0][0] <= now:
            position = self._settling.popleft()[1]
        if spool is not None and position is not None:
            end = position
            self._tried(lambda: spool.taken(end))


def _last(calls: Sequence[Call]) -> int | None:
    return max((call.position for call in calls if call.position is not None), default=None)
