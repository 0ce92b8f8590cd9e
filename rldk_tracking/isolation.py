"""The one place that keeps a fault of ours from ending a training run."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType

logger = logging.getLogger(__name__)


class TrainingStopped(RuntimeError):  # noqa: N818 - the public name says what happened, and it is no fault
    """Raised into a trainer that ignores the stop flag, after a critical alert and after the save was asked for.

    Attributes:
        rule: id of the rule that asked for the stop.
        step: the global step.
    """

    def __init__(self, rule: str, step: int, message: str) -> None:
        super().__init__(f"Training stopped at step {step} by {rule}: {message}")
        self.rule = rule
        self.step = step


class _Prompt:
    """While the training waits for us, its thread gets the interpreter back at once from those that work beside it.

    A thread that computes gives the interpreter up to a waiting one after Python's switch interval, 5 ms; each tensor
    operation of ours may have to wait for that once. Python keeps one interval for all threads, so the first that comes
    shortens it and the last that goes restores it.
    """

    INTERVAL = 1e-5

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = 0.0
        self.outside = threading.Event()
        self.outside.set()

    def enter(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = sys.getswitchinterval()
                sys.setswitchinterval(min(self.INTERVAL, self._before))
                self.outside.clear()
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                sys.setswitchinterval(self._before)
                self.outside.set()


_PROMPT = _Prompt()

COURTESY = 0.02
"""Seconds for which `give_way` waits at most."""
GLANCE = 0.001
"""Seconds after which it looks again whether it is waited for itself."""


def give_way(is_awaited: Callable[[], bool] = lambda: False) -> None:
    """Let the training pass, where it waits for us at this moment; between two pieces of work beside it.

    Args:
        is_awaited: whether it is this work that the training waits for.
    """
    until = time.monotonic() + COURTESY
    while not is_awaited() and not _PROMPT.outside.wait(GLANCE) and time.monotonic() < until:
        pass


class Shield:
    """A context that logs an exception once for each place and kind, with its cause, and lets training go on.

    Args:
        strict: let exceptions out, for development and tests.
        training: whether the training waits for what is done inside, which then goes before what is done beside it.

    Attributes:
        faults: how many exceptions were kept from the trainer.
        seconds: time spent inside so far, nested contexts counted once.
    """

    def __init__(self, strict: bool = False, training: bool = False) -> None:
        self.strict = strict
        self.training = training
        self.faults = 0
        self.seconds = 0.0
        self._places: list[str] = []
        self._entered = 0.0
        self._seen: set[tuple[str, str]] = set()

    @property
    def elapsed(self) -> float:
        """As `seconds`, with the present stay inside."""
        return self.seconds + (time.perf_counter() - self._entered if self._places else 0.0)

    def at(self, place: str) -> Shield:
        """Name the event that is about to be handled; use as `with shield.at("on_log"):`."""
        self._places.append(place)
        return self

    def __enter__(self) -> None:
        if len(self._places) == 1:
            self._entered = time.perf_counter()
            if self.training:
                _PROMPT.enter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        place = self._places.pop()
        if not self._places:
            self.seconds += time.perf_counter() - self._entered
            if self.training:
                _PROMPT.leave()
        if error is None or self.strict or isinstance(error, TrainingStopped) or not isinstance(error, Exception):
            return False
        self.faults += 1
        seen = (place, type(error).__name__)
        if seen not in self._seen:
            self._seen.add(seen)
            logger.error(
                "rldk: a diagnostic failed in %s and is skipped; training goes on. Further %s here stay silent.",
                place,
                type(error).__name__,
                exc_info=error,
            )
        return True
