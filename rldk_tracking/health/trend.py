"""The trend of a series over a whole run, robust and in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass

from rldk_tracking.health.detectors import Stateful, remembered
from rldk_tracking.health.detectors.baseline import mann_kendall, theil_sen

HALF = 16
"""Blocks to which a full run is merged."""
LEAST_BLOCKS = 8
"""Blocks before anything is said."""


@dataclass(eq=False)
class RunTrend(Stateful):
    """The trend of a series over the whole run, robust and in bounded memory, judged anew whenever a block is full.

    The run is kept as at most `2 * HALF` blocks of equally many observations, each with the means of their steps and
    values; when they are full, neighbours are merged and blocks become twice as long. Over the blocks: Theil's slope
    (Theil 1950; Sen 1968) with Sen's interval, and the test of Mann (1945) and Kendall (1975).

    `slope` is (low, slope, high) per step, `effect` the change over the run in standard deviations of the noise of a
    single observation.
    """

    steps: list[float] = remembered(list)
    blocks: list[float] = remembered(list)
    length: int = remembered(1)
    total_step: float = remembered(0.0)
    total: float = remembered(0.0)
    count: int = remembered(0)
    noise: float | None = remembered()
    last: float | None = remembered()
    score: float = remembered(0.0)
    trend: list[float] = remembered(list)

    def add(self, step: int, value: float) -> None:
        """Take the value of a step."""
        if self.last is not None:
            change = abs(value - self.last) * 0.8862
            self.noise = change if self.noise is None else self.noise + (change - self.noise) / 50.0
        self.last = value
        self.total_step += step
        self.total += value
        self.count += 1
        if self.count < self.length:
            return
        self.steps.append(self.total_step / self.count)
        self.blocks.append(self.total / self.count)
        self.total_step, self.total, self.count = 0.0, 0.0, 0
        if len(self.blocks) == 2 * HALF:
            self.steps, self.blocks = _merged(self.steps), _merged(self.blocks)
            self.length *= 2
        if len(self.blocks) >= LEAST_BLOCKS:
            self.score = mann_kendall(self.blocks)
            self.trend = list(theil_sen(self.blocks, self.steps) or ())

    @property
    def slope(self) -> tuple[float, float, float] | None:
        """(low, slope, high) per step; None before there are blocks enough."""
        return (self.trend[0], self.trend[1], self.trend[2]) if self.trend else None

    @property
    def effect(self) -> float | None:
        """The change over the run, in standard deviations of single observations."""
        if not self.trend or self.noise is None:
            return None
        blocks = len(self.blocks)
        change = self.trend[1] * (self.steps[-1] - self.steps[0]) * blocks / (blocks - 1)
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


def _merged(blocks: list[float]) -> list[float]:
    return [(a + b) / 2 for a, b in zip(blocks[::2], blocks[1::2], strict=True)]
