"""From one run to all of its trackers."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.base import Tracker
from rldk_tracking.trackers.delivery import Delivery

logger = logging.getLogger(__name__)

PATIENCE = 3.0
"""Seconds after which a tracker is taken for one that does not answer. At the end such a one gets no more than these,
unless it answers again: what it has not taken waits on disk."""

Call = tuple[Delivery, str, tuple[Any, ...]]


class FanOut:
    """Hands everything to every tracker, whichever thread it comes from.

    Args:
        trackers: the backends.
        folder: where calls wait, under `rldk`, until a tracker takes them; with None they wait in memory alone.
        resumed_at: the checkpoint's step where the training goes on from one.
    """

    def __init__(self, trackers: Iterable[Tracker], folder: str | None, resumed_at: int | None = None) -> None:
        self._deliveries = [
            Delivery(tracker, spool=_spool(tracker, folder), resumed_at=resumed_at) for tracker in trackers
        ]
        # Callbacks of other backends expect the training thread, and get their calls when it next comes by.
        self._later: deque[Call] = deque()

    def __bool__(self) -> bool:
        return bool(self._deliveries)

    def __len__(self) -> int:
        return len(self._deliveries)

    @property
    def errors(self) -> int:
        """Writes that a tracker has not taken so far."""
        return sum(delivery.errors for delivery in self._deliveries)

    @property
    def down(self) -> int:
        """Trackers that do not take what they are given at present."""
        return sum(not delivery.healthy for delivery in self._deliveries)

    def join(self, info: RunInfo) -> None:
        """Let the trackers that have no run yet join it, and make the calls that waited for the training thread."""
        for delivery in self._deliveries:
            if not delivery.tracker.joined:
                delivery.open(info)
        self.catch_up()

    def open(self, info: RunInfo) -> None:
        """Let every tracker join the run, at train begin and on the training thread."""
        for delivery in self._deliveries:
            delivery.open(info)

    def put(self, method: str, *args: Any) -> None:
        """Have `tracker.<method>(*args)` called on each tracker."""
        self.store(method, *args)
        self.wake()

    def store(self, method: str, *args: Any) -> None:
        """Keep such a call on disk, for `wake`, where a tracker's client would compute beside the training now."""
        for delivery in self._deliveries:
            if delivery.tracker.on_training_thread:
                self._later.append((delivery, method, args))
            elif delivery.tracker.threaded:
                delivery.store(method, *args)
            else:  # it is its own disk
                delivery.put(method, *args)

    def wake(self) -> None:
        """Have what was stored handed on."""
        for delivery in self._deliveries:
            if delivery.tracker.threaded:
                delivery.wake()

    def hold(self, row: Mapping[str, float], step: int) -> None:
        """Have every tracker, or the file beside it, keep what is known of a step until `let_go`."""
        if row:
            for delivery in self._deliveries:
                delivery.hold(row, step)

    def let_go(self) -> None:
        """The oldest step that is held was put, or has no row."""
        for delivery in self._deliveries:
            delivery.let_go()

    def catch_up(self) -> None:
        """Make the calls that waited for the training thread, on which this must be called."""
        while self._later:
            delivery, method, args = self._later.popleft()
            delivery.put(method, *args)

    def urls(self) -> dict[str, str]:
        """Addresses of the run's pages, by tracker."""
        found = {delivery.tracker.name: delivery.tracker.url() for delivery in self._deliveries}
        return {name: url for name, url in found.items() if url}

    def close(self, timeout: float) -> None:
        """Flush all at once, so that one that hangs takes no time from the others."""
        self.catch_up()
        closing = [
            _in_thread(delivery.close, timeout, None if delivery.answers(PATIENCE) else PATIENCE)
            for delivery in self._deliveries
            if delivery.tracker.threaded
        ]
        for delivery in self._deliveries:
            if not delivery.tracker.threaded:
                delivery.close(timeout)
        for thread in closing:
            thread.join()


def _in_thread(
    close: Callable[[float, float | None], None], timeout: float, patience: float | None
) -> threading.Thread:
    thread = threading.Thread(target=close, args=(timeout, patience), name="rldk-close", daemon=True)
    thread.start()
    return thread


def _spool(tracker: Tracker, folder: str | None) -> Path | None:
    return Path(folder) / "rldk" / f"undelivered-{tracker.name}.jsonl" if folder and tracker.threaded else None
