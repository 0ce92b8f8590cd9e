"""Whether a series rises or falls, robustly, over a whole run in bounded memory.

The run is kept as at most `2 * HALF` means of equal blocks; when they are full, neighbours are merged and blocks become
twice as long. Over the blocks: Theil's slope (Theil 1950; Sen 1968) with Sen's interval, and the test of Mann (1945)
and Kendall (1975).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rldk_tracking.health.detectors.baseline import median_of_sorted
from rldk_tracking.health.detectors.stateful import Stateful

HALF = 16
LEAST = 8
"""Blocks before anything is said."""


def mann_kendall(values: Sequence[float]) -> float:
    """The normal score of Mann and Kendall's S, corrected for ties and continuity; 0 where all are tied."""
    count = len(values)
    s = sum((later > earlier) - (later < earlier) for i, earlier in enumerate(values) for later in values[i + 1 :])
    ties = [values.count(value) for value in set(values)]
    variance = (count * (count - 1) * (2 * count + 5) - sum(t * (t - 1) * (2 * t + 5) for t in ties)) / 18.0
    if variance <= 0 or s == 0:
        return 0.0
    return float((s - (1 if s > 0 else -1)) / variance**0.5)


def theil_sen(values: Sequence[float], score: float = 1.96) -> tuple[float, float, float]:
    """(low, slope, high): the median of the slopes of all pairs, a unit apart, and Sen's interval for it."""
    count = len(values)
    slopes = sorted((values[j] - values[i]) / (j - i) for i in range(count) for j in range(i + 1, count))
    width = score * (count * (count - 1) * (2 * count + 5) / 18.0) ** 0.5
    low = max(0, int((len(slopes) - width) / 2))
    high = min(len(slopes) - 1, int((len(slopes) + width) / 2) + 1)
    return slopes[low], median_of_sorted(slopes), slopes[high]


class RunTrend(Stateful):
    """The trend of a series over the whole run, judged anew whenever a block is full.

    `slope` is (low, slope, high) per observation, `effect` the change over the run in standard deviations of the noise
    of a single observation.
    """

    STATE: ClassVar[tuple[str, ...]] = ("blocks", "length", "total", "count", "noise", "last", "score", "_slope")

    def __init__(self) -> None:
        self.blocks: list[float] = []
        self.length = 1
        self.total = 0.0
        self.count = 0
        self.noise: float | None = None
        self.last: float | None = None
        self.score = 0.0
        self._slope: list[float] = []

    def add(self, value: float) -> None:
        """Take a value."""
        if self.last is not None:
            step = abs(value - self.last) * 0.8862
            self.noise = step if self.noise is None else self.noise + (step - self.noise) / 50.0
        self.last = value
        self.total += value
        self.count += 1
        if self.count < self.length:
            return
        self.blocks.append(self.total / self.count)
        self.total, self.count = 0.0, 0
        if len(self.blocks) == 2 * HALF:
            self.blocks = [(a + b) / 2 for a, b in zip(self.blocks[::2], self.blocks[1::2], strict=True)]
            self.length *= 2
        if len(self.blocks) >= LEAST:
            self.score = mann_kendall(self.blocks)
            self._slope = [slope / self.length for slope in theil_sen(self.blocks)]

    @property
    def slope(self) -> tuple[float, float, float] | None:
        """(low, slope, high) per observation; None before there are blocks enough."""
        return (self._slope[0], self._slope[1], self._slope[2]) if self._slope else None

    @property
    def effect(self) -> float | None:
        """The change over the run, in standard deviations of single observations."""
        if not self._slope or self.noise is None:
            return None
        change = self._slope[1] * self.length * len(self.blocks)
        if self.noise == 0:
            return 0.0 if change == 0 else (1e9 if change > 0 else -1e9)
        return change / self.noise

    def verdict(self) -> str | None:
        """One of "improving", "diverging" or "plateau": a trend that is both certain and large enough to matter."""
        effect = self.effect
        if effect is None:
            return None
        if self.score > 2.6 and effect > 0.6:
            return "improving"
        if self.score < -2.6 and effect < -0.6:
            return "diverging"
        return "plateau"
