"""The trend of a series over the whole run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rldk_tracking.health.detectors import Stateful, remembered
from rldk_tracking.health.detectors.baseline import MANY_SIGMAS, Change, median_of_sorted

HALF = 16
"""Blocks to which a full run is merged."""
LEAST_BLOCKS = 8
"""Blocks before anything is said."""
LEAST_ROWS = 32
"""Rows before it is said that the run goes down."""
SURE_UP, SURE_DOWN = 2.6, 3.3
"""Normal scores from which a trend is none of chance. Values that follow one another go down for a while by chance too,
and that a sound run diverges is the worse mistake."""
MATTERS = 0.6
"""Change over the run that matters, in standard deviations of the noise."""
FELL = 3.0
"""Standard deviations of the noise by which a quarter of the run must lie below the best."""


def mann_kendall(values: Sequence[float]) -> float:
    """The normal score of Mann and Kendall's S, corrected for ties and continuity; 0 where all are tied."""
    count = len(values)
    s = sum((later > earlier) - (later < earlier) for i, earlier in enumerate(values) for later in values[i + 1 :])
    ties = [values.count(value) for value in set(values)]
    variance = (count * (count - 1) * (2 * count + 5) - sum(t * (t - 1) * (2 * t + 5) for t in ties)) / 18.0
    if variance <= 0 or s == 0:
        return 0.0
    return float((s - (1 if s > 0 else -1)) / variance**0.5)


def theil_sen(
    values: Sequence[float], at: Sequence[float] | None = None, score: float = 1.96
) -> tuple[float, float, float] | None:
    """(low, slope, high): the median of the slopes of all pairs, and Sen's interval for it.

    Of N slopes in ascending order the interval's ends are those of rank (N - C) / 2 and (N + C) / 2 + 1, with
    C = `score` sqrt(n (n - 1) (2n + 5) / 18), ranks rounded, as in Sen (1968). Values are taken for independent.

    Args:
        values: what is measured.
        at: where, a unit apart by default. Pairs at one place have no slope.
        score: of the normal distribution.

    Returns:
        None where no pair has a slope.
    """
    count = len(values)
    xs: Sequence[float] = range(count) if at is None else at
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count) if xs[j] != xs[i]]
    slopes = sorted((values[j] - values[i]) / (xs[j] - xs[i]) for i, j in pairs)
    if not slopes:
        return None
    width = score * (count * (count - 1) * (2 * count + 5) / 18.0) ** 0.5
    low = max(0, round((len(slopes) - width) / 2) - 1)
    high = min(len(slopes) - 1, round((len(slopes) + width) / 2))
    return slopes[low], median_of_sorted(slopes), slopes[high]


@dataclass(eq=False)
class RunTrend(Stateful):
    """The trend of a series over the whole run, robust and in bounded memory, judged anew when somebody asks.

    The run is kept as at most `2 * HALF` blocks of equally many observations, each with the means of their steps and
    values; when they are full, neighbours are merged and blocks become twice as long. Over the blocks: Theil's slope
    (Theil 1950; Sen 1968) with Sen's interval, and the test of Mann (1945) and Kendall (1975). That test misses a
    series that fell and then lies flat, which `fell` is about.

    `slope` is (low, slope, high) per step, `effect` the change over the run in standard deviations of the noise of a
    single observation. One that is equal to the one before is the same rollout once more, and tells nothing of it.
    """

    steps: list[float] = remembered(list)
    blocks: list[float] = remembered(list)
    length: int = remembered(1)
    total_step: float = remembered(0.0)
    total: float = remembered(0.0)
    count: int = remembered(0)
    values: Change = remembered(Change)
    fell: bool = remembered(False)

    def __post_init__(self) -> None:
        self._judged: tuple[float, tuple[float, float, float] | None] | None = None

    def add(self, step: int, value: float) -> None:
        """Take the value of a step."""
        if not self.values.count or value != self.values.recent[-1]:
            self.values.add(value)
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
        self._judged = None
        self.fell = self.is_long and self._fell()

    @property
    def is_long(self) -> bool:
        """Whether there are rows enough to say that it goes down."""
        return self.length * len(self.blocks) >= LEAST_ROWS

    def _fell(self) -> bool:
        """Whether the last quarter is far below the best, and is not on its way back."""
        quarter = len(self.blocks) // 4
        quarters = [sum(self.blocks[i : i + quarter]) / quarter for i in range(len(self.blocks) - quarter + 1)]
        best, last = max(quarters), quarters[-1]
        matters = (best - min(quarters)) / 4.0
        regained = last - min(quarters[quarters.index(best) :])
        return best - last > max(FELL * self.values.wander, matters) and regained < matters

    @property
    def score(self) -> float:
        """Mann and Kendall's; 0 before there are blocks enough."""
        return self._judge()[0]

    @property
    def slope(self) -> tuple[float, float, float] | None:
        """(low, slope, high) per step; None before there are blocks enough."""
        return self._judge()[1]

    def _judge(self) -> tuple[float, tuple[float, float, float] | None]:
        """Both, of the blocks as they stand: when somebody asks, as it takes longer than all else."""
        if self._judged is None:
            is_enough = len(self.blocks) >= LEAST_BLOCKS
            self._judged = (mann_kendall(self.blocks), theil_sen(self.blocks, self.steps)) if is_enough else (0.0, None)
        return self._judged

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        super().load_state(state)
        self._judged = None

    @property
    def effect(self) -> float | None:
        """The change over the run, in standard deviations of single observations."""
        if self.slope is None:
            return None
        blocks = len(self.blocks)
        change = self.slope[1] * (self.steps[-1] - self.steps[0]) * blocks / (blocks - 1)
        noise = self.values.wander
        if noise == 0:
            return 0.0 if change == 0 else (MANY_SIGMAS if change > 0 else -MANY_SIGMAS)
        return change / noise

    def verdict(self) -> str | None:
        """One of "improving", "diverging" or "plateau": a trend that is both certain and large enough to matter."""
        effect = self.effect
        if effect is None:
            return None
        if self.fell or (self.is_long and self.score < -SURE_DOWN and effect < -MATTERS):
            return "diverging"
        return "improving" if self.score > SURE_UP and effect > MATTERS else "plateau"


def _merged(blocks: list[float]) -> list[float]:
    return [(a + b) / 2 for a, b in zip(blocks[::2], blocks[1::2], strict=True)]
