"""Control charts for a lasting shift of a mean, on values in standard deviations of a healthy baseline.

The textbook limits hold for independent values of known mean and variance. Here values follow one another
(autocorrelation) and the baseline is an estimate from a few dozen of them, so values are divided by `inflation` and the
limits are wider. With the defaults, at most one in 20 healthy runs of 500 steps alarms at a lag-one autocorrelation of
up to 0.8; `tests/health/conditions/test_shift.py` measures it.
"""

from __future__ import annotations

import math
from typing import ClassVar

from rldk_tracking.health.detectors.stateful import Stateful


def inflation(autocorrelation: float) -> float:
    """By how much a first-order autoregression widens the error of a mean: sqrt((1 + r) / (1 - r)), at least 1."""
    r = min(max(autocorrelation, 0.0), 0.95)
    return math.sqrt((1.0 + r) / (1.0 - r))


class Cusum(Stateful):
    """Page's cumulative sum (1954): of what exceeds half of the shift that matters, never below 0.

    Args:
        shift: the shift that matters, in standard deviations.
        limit: the sum that is a shift.
    """

    STATE: ClassVar[tuple[str, ...]] = ("total",)

    def __init__(self, shift: float = 1.0, limit: float = 12.0) -> None:
        self.half, self.limit = shift / 2.0, limit
        self.total = 0.0

    def add(self, value: float) -> bool:
        """Take a value; True while the sum is beyond the limit. It grows to twice the limit, so that it can end."""
        self.total = min(max(0.0, self.total + value - self.half), 2.0 * self.limit)
        return self.total > self.limit


class Ewma(Stateful):
    """Roberts's exponentially weighted mean (1959) against its own limit.

    Args:
        weight: of the newest value.
        limit: in standard deviations of the weighted mean of independent values.
    """

    STATE: ClassVar[tuple[str, ...]] = ("mean",)

    def __init__(self, weight: float = 0.1, limit: float = 4.0) -> None:
        self.weight = weight
        self.limit = limit * math.sqrt(weight / (2.0 - weight))
        self.mean = 0.0

    def add(self, value: float) -> bool:
        """Take a value; True while the mean is beyond the limit."""
        self.mean += self.weight * (value - self.mean)
        return self.mean > self.limit


class PageHinkley(Stateful):
    """Hinkley's test (1971): the sum of what exceeds the running mean by `allowance`, above its lowest so far.

    It needs no baseline: the running mean is its own. A shift that comes early, before the mean has settled, is missed.

    Args:
        allowance: what is tolerated, in the unit of the values.
        limit: the rise of the sum that is a shift.
    """

    STATE: ClassVar[tuple[str, ...]] = ("count", "mean", "total", "lowest")

    def __init__(self, allowance: float = 0.5, limit: float = 10.0) -> None:
        self.allowance, self.limit = allowance, limit
        self.count = 0
        self.mean = self.total = self.lowest = 0.0

    def add(self, value: float) -> bool:
        """Take a value; True while the sum is beyond the limit."""
        self.count += 1
        self.mean += (value - self.mean) / self.count
        self.total += value - self.mean - self.allowance
        self.lowest = min(self.lowest, self.total)
        return self.total - self.lowest > self.limit
