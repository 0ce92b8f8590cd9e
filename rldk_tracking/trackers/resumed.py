"""What a resumed training may write into a run that an earlier one began: every step once, and none left out.

A run holds rows up to some step, the checkpoint may be older, and calls of the earlier process may still wait on disk.
Stores have no way to take a point back, so a step that the run holds already stays as it is, and what waits on disk is
sent as far as the resumed training does not make it anew.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rldk_tracking.trackers.base import Row, Tracker
from rldk_tracking.trackers.journal import decode
from rldk_tracking.trackers.spool import Spool

logger = logging.getLogger(__name__)


class Resumed:
    """One tracker's part in a resumed training. Called where the tracker is.

    Args:
        tracker: the backend.
        step: the checkpoint's step.
        own: the present process's spool, whose neighbours are looked at; None where there is none.
    """

    def __init__(self, tracker: Tracker, step: int, own: Spool | None) -> None:
        self._tracker = tracker
        self._step = step
        self._own = own
        self._begun = False
        self._last: int | None = None
        self.held = step

    def begin(self) -> None:
        """Find out what the run holds. Raises what the tracker does; to be called again then."""
        if self._begun:
            return
        last = self._last = self._tracker.last_step()
        self.held = self._step if last is None else max(self._step, last)
        if last is not None and last > self._step:
            logger.info(
                "%s holds steps %d to %d of an earlier training; they stay, and are not written a second time.",
                self._tracker.name,
                self._step + 1,
                last,
            )
        with ExitStack() as opened:
            left = []
            for spool in self._left():
                opened.callback(spool.close)
                left.append(spool)
            # A store may still be busy with what it was given last, so that it does not say yet that it holds it.
            self.held = max([self.held, *map(self._under_way, left)])
            for spool in left:
                self._send(spool)
        self._begun = True

    def is_new(self, method: str, args: tuple[Any, ...]) -> bool:
        """Whether a call of the resumed training is to be made."""
        return method != "log" or int(args[1]) > self.held

    def _left(self) -> Iterator[Spool]:
        """What earlier processes left for the same run."""
        if self._own is None:
            return
        here: Path = self._own.path
        for path in sorted(here.parent.glob(f"undelivered-{self._tracker.name}*.jsonl")):
            if path == here:
                continue
            try:
                spool = Spool.reopen(path)
            except (OSError, ValueError):
                continue
            if spool.head.tracker == self._tracker.name and self._is_ours(spool.head.to):
                yield spool
            else:
                spool.close()

    def _is_ours(self, to: Mapping[str, str]) -> bool:
        """Whether these calls were for the run that goes on here.

        A backend's own log on disk is each process's own. Where the run cannot say what it holds (W&B offline), what
        is in that log is not known here, and `rldk-tracking sync` compares the two.
        """
        if "log" in to and self._last is None:
            return False
        here = self._tracker.address()
        return all(to.get(name) == here.get(name) for name in {*to, *here} - {"log"})

    def _under_way(self, spool: Spool) -> int:
        """The last step that was being written when the process ended. It is sent as it was, never made anew.

        A tracker in which a repetition stays keeps the step open instead: better twice than not at all.
        """
        certain = _end_of_trying(spool)
        records = (record for record, position in spool.read(spool.first) if position <= certain)
        steps = [int(record["step"]) for record in records if record["type"] == "metrics"]
        return max(steps, default=0) if self._tracker.repeatable else 0

    def _send(self, spool: Spool) -> None:
        first, certain = spool.first, _end_of_trying(spool)
        for record, position in spool.read(first):
            is_row = record["type"] == "metrics"
            wanted = record.get("step", self._step + 1) <= (self.held if is_row else self._step)
            # What was handed over may be held already, unless the run says that it holds nothing so late.
            beyond = is_row and self._last is not None and record["step"] > self._last
            wanted = wanted and (self._tracker.repeatable or position > certain or beyond)
            if wanted and record["type"] not in ("address", "status"):
                self._make(record)
            spool.taken(position)

    def _make(self, record: dict[str, Any]) -> None:
        method, args = decode(record)
        if method == "log":
            self._tracker.log_rows([Row(args[0], args[1], record["time"])])
        else:
            getattr(self._tracker, method)(*args)


def _end_of_trying(spool: Spool) -> int:
    """Position up to which calls were under way when the process ended."""
    head = spool.head
    return spool.first + head.trying - head.taken
