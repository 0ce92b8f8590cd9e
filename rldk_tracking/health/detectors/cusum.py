"""A control chart for a lasting shift of a mean, on values in standard deviations of a healthy baseline.

The textbook limit holds for independent values of known mean and variance. Here values follow one another
(autocorrelation) and the baseline is an estimate from a few dozen of them, so values are divided by `inflation` and the
limit is wider. With the defaults, at most one in 20 healthy runs of 500 steps alarms at a lag-one autocorrelation of
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
