"""One small file a rank that says how far it is, for those who watch from outside. See `rldk_tracking.journal.beats`.

Every rank of a job writes its own, into the folder of the journal, in step with the phases of its trainer. A beat costs
some microseconds and never raises. Shortly before a training counts as hung, it writes down where every thread stands.
"""

from __future__ import annotations

import bisect
import json
import logging
import os
import re
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from rldk_tracking.health.conditions.silence import Silence
from rldk_tracking.journal.beats import beat_files, host_name
from rldk_tracking.journal.stacks import PlannedDump, StacksWriter
from rldk_tracking.sources.wrapping import Phase, PhaseWatch

logger = logging.getLogger(__name__)

KEPT_DURATIONS = 512
LONGEST_FACTOR = 2.0
"""What has taken so long once may take this many times as long again, however rare it is."""
NUMBERS_BYTES = 160
"""Of a beat, for what changes from one to the next."""
RETRY_S = 10.0
"""After a write that failed, the next one is tried so much later."""
STACKS_EARLY_S = 2.0
"""The stacks are written so long before the limit, so that they are there when the watchdog looks."""


class Durations:
    """How long one phase took: the last 512 times in seconds, and the longest ever."""

    def __init__(self) -> None:
        self._last: deque[float] = deque()
        self._sorted: list[float] = []
        self.longest = 0.0
        self.first_step: int | None = None
        """The step in which it was first over; None where it never was."""

    def add(self, seconds: float, step: int) -> None:
        """The phase was over."""
        if self.first_step is None:
            self.first_step = step
        if len(self._last) == KEPT_DURATIONS:
            del self._sorted[bisect.bisect_left(self._sorted, self._last.popleft())]
        self._last.append(seconds)
        bisect.insort(self._sorted, seconds)
        self.longest = max(self.longest, seconds)

    def p99(self) -> float:
        """99th percentile in seconds, linear between neighbours. There must be one duration."""
        position = 0.99 * (len(self._sorted) - 1)
        below = int(position)
        above = min(below + 1, len(self._sorted) - 1)
        return self._sorted[below] + (position - below) * (self._sorted[above] - self._sorted[below])


class Heartbeat:
    """Writes the file of one rank.

    Args:
        folder: the journal's; it is made where it is missing.
        stem: the journal's name without its end: "run", "run-2".
        rank: of this process.
        ranks: how many there are, of those that have a heartbeat.
        rule: says how long a phase may be silent; None where that is not watched (`run.hung` is off).
        is_over: whether the training has ended, asked now and then in a thread of this package.
    """

    def __init__(
        self,
        folder: Path,
        stem: str,
        rank: int,
        ranks: int = 1,
        rule: Silence | None = None,
        is_over: Callable[[], bool] = lambda: False,
    ) -> None:
        self._rule = rule
        self._pid = os.getpid()
        self._phases: PhaseWatch | None = None
        self._phase: Phase = "starting"
        self._step = 0
        self._events = 0
        self._since = time.monotonic()
        self._limit: float | None = None
        self._durations: dict[Phase, Durations] = {}
        self._stem, self._rank = stem, rank
        host = host_name()
        at = f"{rank}@{re.sub(r'[^A-Za-z0-9_.-]', '_', host)}"
        self._path = folder / f"{stem}.beat-{at}.json"
        stacks = folder / (f"{stem}.stacks.txt" if rank == 0 else f"{stem}.stacks-{at}.txt")
        wants_stacks = rule is not None and rule.stacks
        self._stacks = StacksWriter(stacks, is_over) if wants_stacks else None
        constant = {
            "began": round(time.time(), 3),  # as a beat's own time is, which is never before it
            "pid": self._pid,
            "created": psutil.Process().create_time(),
            "host": host,
            "rank": rank,
            "ranks": ranks,
            "stacks": stacks.name,
        }
        self._constant = json.dumps(constant)[1:]
        self._size = len(self._constant) + NUMBERS_BYTES
        self._descriptor: int | None = None
        self._retry_at = 0.0
        self._has_failed = False
        self._is_closed = not hasattr(os, "pwrite")  # Windows has no such call, and no heartbeat

    def beat(self, phase: Phase, step: int | None = None) -> Phase:
        """Something happened: a phase begins, or the one that is under way goes on.

        Args:
            phase: that is under way from now on. The one that was, in the same step, is a sign of life: it is as long
                as it will be, and may be silent from now on for as long as before.
            step: the trainer's global step; the last beat's by default.

        Returns:
            The phase that was under way before.
        """
        before = self._phase
        if self._is_closed or os.getpid() != self._pid:  # a child that was forked is no rank
            return before
        now = time.monotonic()
        step = self._step if step is None else step
        if phase != before or step != self._step or self._events == 0:
            if self._events:
                self._durations.setdefault(before, Durations()).add(now - self._since, self._step)
            self._phase, self._step, self._since = phase, step, now
            self._limit = self._limit_of(phase, step)
        self._events += 1
        self._plan_dump(now)
        if now >= self._retry_at:
            self._write(now)
        return before

    def begin(self, step: int, trainer: Any) -> None:
        """The training begins behind this step. The phases of its trainer are followed, if it has one, until `end`."""
        self.beat("starting", step)
        self._phases = None if trainer is None else PhaseWatch(trainer, self.beat)

    def end(self) -> None:
        """Training is over, and what is left to do may take its time."""
        self.beat("ending")
        if self._phases is not None:
            self._phases.detach()

    def close(self) -> None:
        """Everything is over: the file goes, since the journal says from now on how it ended."""
        if self._is_closed or os.getpid() != self._pid:
            return
        self._is_closed = True
        if self._stacks is not None:
            self._stacks.close()
        try:
            if self._descriptor is not None:
                os.close(self._descriptor)
            self._path.unlink(missing_ok=True)
        except OSError as error:
            logger.debug("rldk: %s is left behind: %s", self._path, error)

    def _limit_of(self, phase: Phase, step: int) -> float | None:
        """Seconds that a phase may be silent, None for ever."""
        if self._rule is None or phase == "ending":
            return None
        known = self._durations.get(phase)
        # A phase that ends often within a step is not known by the first of its parts: what compiles may come later.
        if known is None or known.first_step in (None, step):
            return max(self._rule.threshold, self._rule.first)
        return max(self._rule.threshold, self._rule.times * known.p99(), LONGEST_FACTOR * known.longest)

    def _plan_dump(self, now: float) -> None:
        if self._stacks is None:
            return
        dump = None
        if self._limit is not None:
            due = now + max(self._limit - STACKS_EARLY_S, self._limit / 2)
            dump = PlannedDump(due, now, self._events, f"phase {self._phase} of step {self._step}")
        self._stacks.planned = dump
        if dump is None or self._stacks.is_started:
            return
        try:
            self._stacks.start()
        except RuntimeError as error:  # no thread is to be had
            self._stacks = None
            logger.debug("rldk: where the threads stand in a hang will not be known: %s", error)

    def _write(self, now: float) -> None:
        limit = "null" if self._limit is None else repr(self._limit)
        text = (
            f'{{"time": {time.time():.3f}, "step": {self._step}, "phase": "{self._phase}", "events": {self._events}, '
            f'"limit_s": {limit}, {self._constant}'
        )
        try:
            if self._descriptor is None:
                self._descriptor = self._open()
            os.pwrite(self._descriptor, text.ljust(self._size - 1).encode() + b"\n", 0)
        except OSError as error:
            self._retry_at = now + RETRY_S
            if not self._has_failed:
                self._has_failed = True
                logger.debug("rldk: no heartbeat can be written to %s: %s", self._path, error)

    def _open(self) -> int:
        """The file, empty; those that this rank left on other hosts in an earlier training go."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        for path in beat_files(self._path.parent, self._stem, self._rank):
            if path != self._path:
                path.unlink(missing_ok=True)
        return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
