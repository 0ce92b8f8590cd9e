"""How far a series has come since its first values, in units of its own noise."""

from __future__ import annotations

import math
from collections import deque
from typing import ClassVar

from rldk_tracking.health.detectors.baseline import ABSOLUTE_DEVIATION_TO_SIGMA
from rldk_tracking.health.detectors.stateful import Stateful

MANY = 1e9
"""Standard deviations of a change in a series without noise."""

LAG = 8
"""Values apart at which those of a first-order autoregression of up to 0.8 are all but independent."""


class Change(Stateful):
    """Exponential mean against the mean of the first values; the noise is the mean deviation from that mean.

    Args:
        early: first values that make up the start.
        span: observations of the exponential mean.
        growing: share of all observations so far that the mean spans where that is more, up to `memory`: a long run can
            afford to look twice.
        memory: observations over which the noise is averaged.
    """

    STATE: ClassVar[tuple[str, ...]] = ("count", "start", "mean", "noise", "recent", "moves", "moved", "moved_square")

    def __init__(self, early: int = 8, span: float = 5.0, memory: int = 100, growing: float = 0.0) -> None:
        self.early, self.span, self.memory, self.growing = early, span, memory, growing
        self.count = 0
        self.start = self.mean = self.noise = 0.0
        self.recent: deque[float] = deque(maxlen=LAG)
        self.moves = 0
        self.moved = self.moved_square = 0.0

    def add(self, value: float) -> None:
        """Take a value."""
        self.count += 1
        if self.count == 1:
            self.mean = value
        else:
            deviation = ABSOLUTE_DEVIATION_TO_SIGMA * abs(value - self.mean)
            self.noise += (deviation - self.noise) / min(self.count - 1, self.memory)
        if len(self.recent) == LAG:
            self.moves += 1
            weight = 1.0 / min(self.moves, self.memory)
            move = value - self.recent[0] - self.moved
            bound = 4.0 * math.sqrt(2.0) * self.noise  # a step of the level is no noise
            self.moved_square += weight * (min(abs(move), bound) ** 2 - self.moved_square)
            self.moved += weight * move
        self.recent.append(value)
        if self.count <= self.early:
            self.start += (value - self.start) / self.count
        span = max(self.span, min(self.growing * self.count, self.memory))
        self.mean += 2.0 / (span + 1.0) * (value - self.mean)

    @property
    def change(self) -> float | None:
        """The smoothed value less the start, None before the start is known."""
        return self.mean - self.start if self.count > self.early else None

    @property
    def wander(self) -> float:
        """The noise's standard deviation where values follow one another (autocorrelation).

        Neighbours are then alike, so that single values stay near the mean of the last few, and their deviation from it
        tells too little. Values `LAG` apart are not alike; what they differ by on average is the trend, not noise.
        """
        return max(self.noise, math.sqrt(self.moved_square / 2.0))

    @property
    def sigmas(self) -> float | None:
        """The same in standard deviations of the noise."""
        change = self.change
        if change is None:
            return None
        if self.wander > 0:
            return change / self.wander
        return 0.0 if change == 0 else (MANY if change > 0 else -MANY)
