"""How long a rank waits for the others in the trainer's own exchanges: the one that lags waits least."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

from rldk_tracking.sources.wrapping import Wrapped

EXCHANGES = ("gather", "gather_for_metrics")


class Waiting:
    """A clock around `accelerator.gather`, in which TRL's trainers wait for each other after sampling.

    Waiting in a backward pass, or for another rank's reward function in GRPO, is not seen, and of a GPU only what the
    host waits for.

    Args:
        accelerator: accelerate's `Accelerator`.
    """

    def __init__(self, accelerator: Any) -> None:
        self._seconds = 0.0
        self._inside = False
        self._wrapped = [
            Wrapped(accelerator, name, self._around) for name in EXCHANGES if callable(getattr(accelerator, name, None))
        ]

    def take(self) -> float:
        """Seconds since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def detach(self) -> None:
        """Put the accelerator back as it was."""
        for wrapped in self._wrapped:
            wrapped.restore()
        self._wrapped = []

    def _around(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def exchange(*args: Any, **kwargs: Any) -> Any:
            if self._inside:  # one of the two calls the other
                return original(*args, **kwargs)
            self._inside, begin = True, time.perf_counter()
            try:
                return original(*args, **kwargs)
            finally:
                self._seconds += time.perf_counter() - begin
                self._inside = False

        return exchange
