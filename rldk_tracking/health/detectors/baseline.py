"""What is normal for this run: median and spread of recent values, frozen before a fault."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from rldk_tracking.health.detectors.stateful import Stateful

MAD_TO_SIGMA = 1.4826
"""The median absolute deviation of a normal distribution times this is its standard deviation."""
ABSOLUTE_DEVIATION_TO_SIGMA = 1.2533
"""The same for the mean absolute deviation."""


def median_of_sorted(values: Sequence[float]) -> float:
    """The median of an ascending, non-empty sequence."""
    middle = len(values) // 2
    return values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2


class Baseline(Stateful):
    """Median and MAD over the last `window` values that were taken for normal.

    A value waits for `delay` further ones before it counts, and whoever sees a fault calls `freeze`, which drops those
    that wait: the slow beginning of a fault does not move the measure that it is held to.
    """

    STATE: ClassVar[tuple[str, ...]] = ("values", "waiting")

    def __init__(self, window: int = 48, delay: int = 3) -> None:
        self.values: deque[float] = deque(maxlen=window)
        self.waiting: deque[float] = deque()
        self.delay = delay
        self._sorted: list[float] = []
        self._spread: float | None = None

    def __len__(self) -> int:
        return len(self.values)

    def add(self, value: float) -> None:
        """Take a normal value; it counts `delay` values later."""
        self.waiting.append(value)
        if len(self.waiting) > self.delay:
            self._accept(self.waiting.popleft())

    def freeze(self) -> None:
        """A fault is seen: what has not counted yet never will."""
        self.waiting.clear()

    def restart(self, values: Sequence[float]) -> None:
        """Another level is normal from now on."""
        self.values.clear()
        self.waiting.clear()
        self._sorted.clear()
        for value in values:
            self._accept(value)

    @property
    def median(self) -> float:
        """Of the values that count; there must be one."""
        return median_of_sorted(self._sorted)

    @property
    def spread(self) -> float:
        """The standard deviation that a normal distribution of this MAD would have. 0 where values repeat."""
        if self._spread is None:
            middle = self.median
            self._spread = MAD_TO_SIGMA * median_of_sorted(sorted([abs(value - middle) for value in self._sorted]))
        return self._spread

    @property
    def wander(self) -> float:
        """A standard deviation that far values count in as well: the larger of `spread` and the mean deviation's."""
        middle = self.median
        mean_deviation = sum(abs(value - middle) for value in self._sorted) / len(self._sorted)
        return max(self.spread, ABSOLUTE_DEVIATION_TO_SIGMA * mean_deviation)

    def _accept(self, value: float) -> None:
        if len(self.values) == self.values.maxlen:
            del self._sorted[bisect_left(self._sorted, self.values[0])]
        self.values.append(value)
        insort(self._sorted, value)
        self._spread = None

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        super().load_state(state)
        self._sorted = sorted(self.values)
        self._spread = None
