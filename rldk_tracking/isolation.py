"""The one place that keeps a fault of ours from ending a training run.

Keys, read by `rldk_tracking.metrics.keys`:

    rldk/system/overhead_fraction | 1 | host | lower
        What these diagnostics cost.
        = time here / wall time
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")


class TrainingStopped(RuntimeError):  # noqa: N818 - the public name says what happened, and it is no fault
    """Raised into a trainer that ignores the stop flag, after a critical alert and after the save was asked for.

    Attributes:
        rule: id of the rule that asked for the stop.
        step: the global step.

    Examples:
        >>> from rldk_tracking import TrainingStopped
        >>> stopped = TrainingStopped("nan.weights", 7, "A weight is NaN.")
        >>> stopped.rule, stopped.step
        ('nan.weights', 7)
    """

    def __init__(self, rule: str, step: int, message: str) -> None:
        super().__init__(f"Training stopped at step {step} by {rule}: {message}")
        self.rule = rule
        self.step = step


class Shield:
    """A context that logs an exception once for each place and kind, with its cause, and lets training go on.

    Args:
        strict: let exceptions out, for development and tests.

    Attributes:
        faults: how many exceptions were kept from the trainer.
        failed: the place and the kind of each of them, once.
        seconds: time spent inside so far, nested contexts counted once.
    """

    def __init__(self, strict: bool = False) -> None:
        self.strict = strict
        self.faults = 0
        self.seconds = 0.0
        self._places: list[str] = []
        self._entered = 0.0
        self.failed: list[tuple[str, str]] = []
        self._taken = (time.perf_counter(), 0.0)

    def at(self, place: str) -> Shield:
        """Name the event that is about to be handled; use as `with shield.at("on_log"):`."""
        self._places.append(place)
        return self

    def each(self, items: Iterable[T], work: Callable[..., object], *given: object) -> list[tuple[T, Exception]]:
        """Do the work on every item; those that failed come back with their exceptions, for whoever says so.

        Args:
            items: what may fail.
            work: is called with each of them.
            given: further arguments of it.
        """
        failed: list[tuple[T, Exception]] = []
        for item in items:
            try:
                work(item, *given)
            except Exception as error:
                if self.strict:
                    raise
                failed.append((item, error))
        self.faults += len(failed)
        return failed

    def take_share(self) -> float:
        """Share of the wall time since the last call, or since it was made, that was spent inside."""
        (then, before), now = self._taken, time.perf_counter()
        self._taken = (now, self.seconds)
        return (self.seconds - before) / (now - then) if now > then else 0.0

    def __enter__(self) -> None:
        if len(self._places) == 1:
            self._entered = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        place = self._places.pop()
        if not self._places:
            self.seconds += time.perf_counter() - self._entered
        if error is None or self.strict or isinstance(error, TrainingStopped) or not isinstance(error, Exception):
            return False
        self.faults += 1
        seen = (place, type(error).__name__)
        if seen not in self.failed:
            self.failed.append(seen)
            logger.error(
                "rldk: a diagnostic failed in %s and is skipped; training goes on. Further %s here stay silent.",
                place,
                type(error).__name__,
                exc_info=error,
            )
        return True
