"""How a run comes along: its trend, how far it is with its task, and its scores.

Scores are in [0, 1], with their parts, from the alerts that fire and the conditions behind them:

| key | meaning |
|---|---|
| rldk/health/score | product of the families' scores |
| rldk/health/{family} | 1 where nothing of the family fires, 0.5 with a warning, 0.1 with a critical alert |
| rldk/health/stability | 1 minus the share of recent rows (exponential mean over 20) with a jump, a spike or a NaN |
| rldk/health/convergence | 0 diverging, 0.5 plateau, 0.75 improving, 1 solved |
| rldk/health/convergence_slope, .._low, .._high | change of the reward per row (Theil-Sen) and its 95 % interval |
| rldk/health/memory_efficiency | share of the GPU memory that torch reserves which tensors use at their peak |
| rldk/health/policy_collapse_risk | mean loss of entropy, diversity, reward spread since the start; 0 where solved |
| rldk/health/reward_hacking_risk | share of the witnesses that contradict a reward that rises |

A part that no data speaks of is absent, and so is the score where nothing is known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from rldk_tracking.health.detectors import Stateful
from rldk_tracking.health.detectors.baseline import mann_kendall, theil_sen

if TYPE_CHECKING:
    from rldk_tracking.health.engine import Watch

HALF = 16
"""Blocks to which a full run is merged."""
LEAST_BLOCKS = 8
"""Blocks before anything is said."""
REWARD_MEAN = "rldk/reward/mean"
REWARD_SPREADS = ("rldk/reward/group_std_mean", "rldk/reward/std")
TIED_AT_TOP = "rldk/reward/group_tied_fraction_all_max"
PATIENCE_ROWS = 20
"""Rows without a new best after which a reward has stopped to rise."""


class RunTrend(Stateful):
    """The trend of a series over the whole run, robust and in bounded memory, judged anew whenever a block is full.

    The run is kept as at most `2 * HALF` means of equal blocks; when they are full, neighbours are merged and blocks
    become twice as long. Over the blocks: Theil's slope (Theil 1950; Sen 1968) with Sen's interval, and the test of
    Mann (1945) and Kendall (1975).

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
        if len(self.blocks) >= LEAST_BLOCKS:
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


class Progress(Stateful):
    """How far a run has come with its task: has the reward climbed, is it at its best, is the task solved?

    Follows the mean reward (exponential mean over 9 rows), its best, and the largest spread of single rewards. What a
    collapse and success have in common is that entropy, diversity and spread go. They differ in the reward.

    Args:
        ceiling: the highest reward that the task can give, where it is known.
        margin: how near the best, or the ceiling, counts as there, as a share of the climb.
        climb: the rise since the first rows that counts as one, in units of the largest spread.
    """

    STATE: ClassVar[tuple[str, ...]] = (
        "count", "mean", "first", "best", "since_best", "lowest", "widest", "spread", "all_max",
    )  # fmt: skip

    def __init__(self, ceiling: float | None = None, margin: float = 0.15, climb: float = 1.0) -> None:
        self.ceiling, self.margin, self.climb = ceiling, margin, climb
        self.count = 0
        self.mean: float | None = None
        self.first = self.best = self.lowest = 0.0
        self.since_best = 0
        self.widest = 0.0
        self.spread: float | None = None
        self.all_max: float | None = None

    def add(self, row: Mapping[str, float]) -> None:
        """Take what the row says of the reward."""
        spread = next((row[key] for key in REWARD_SPREADS if key in row), None)
        if spread is not None:
            self.spread = spread if self.spread is None else self.spread + 0.2 * (spread - self.spread)
            self.widest = max(self.widest, spread)
        solved = row.get(TIED_AT_TOP)
        if solved is not None:
            self.all_max = solved if self.all_max is None else self.all_max + 0.2 * (solved - self.all_max)
        value = row.get(REWARD_MEAN)
        if value is None:
            return
        self.count += 1
        if self.mean is None:
            self.mean = self.best = self.lowest = value
        self.mean += 0.2 * (value - self.mean)
        if self.count <= 5:
            self.first += (value - self.first) / self.count
        self.lowest = min(self.lowest, self.mean)
        self.since_best += 1
        if self.mean > self.best + 0.02 * abs(self.best - self.lowest):
            self.since_best = 0
        self.best = max(self.best, self.mean)

    @property
    def climbed(self) -> bool:
        """Whether the best is above the first rows by more than single rewards ever differed."""
        return self.widest > 0 and self.best - self.first >= self.climb * self.widest

    @property
    def at_best(self) -> bool:
        """Whether the reward is where it was at its best."""
        return self.mean is not None and self.mean >= self.best - self.margin * (self.best - self.lowest)

    @property
    def at_lowest(self) -> bool:
        """Whether the reward is where it was at its lowest."""
        return self.mean is not None and self.mean <= self.lowest + 0.1 * (self.best - self.lowest)

    @property
    def solved(self) -> bool:
        """At the task's ceiling where that is known, else at the best after a climb, any ties being ties at the top."""
        if self.mean is None:
            return False
        if self.ceiling is not None:
            extent = max(self.ceiling - self.lowest, 0.1 * abs(self.ceiling))
            return self.mean >= self.ceiling - self.margin * extent
        return self.climbed and self.at_best and (self.all_max is None or self.all_max >= 0.5)

    @property
    def excuses(self) -> bool:
        """Whether a loss of variety is what learning looks like: the reward climbed, is at its best, and still rises
        or is tied at the top."""
        if self.solved:
            return True
        rising = self.since_best <= PATIENCE_ROWS or (self.all_max is not None and self.all_max >= 0.3)
        return self.climbed and self.at_best and rising

    @property
    def near_ceiling(self) -> bool:
        """Whether most of what can be had is had, if rewards are 0 or R: then mean / R = mean² / (mean² + spread²).

        A reward that hardly varies at all tells nothing of the kind.
        """
        if self.mean is None or self.spread is None or self.mean <= 0 or self.spread <= 0.02 * self.mean:
            return False
        return self.mean**2 / (self.mean**2 + self.spread**2) > 0.5


PENALTY = {"info": 1.0, "warning": 0.5, "critical": 0.1}
UNSTABLE = (
    "nan.weights", "nan.gradients", "nan.loss", "nan.reward", "kl.spike", "grad.explosion", "value.loss",
    "update.too_large", "entropy.explosion",
)  # fmt: skip
"""Rules whose breaches make a row unstable."""
CONVERGENCE = {"diverging": 0.0, "plateau": 0.5, "improving": 0.75, "solved": 1.0}
PEAK, RESERVED = "rldk/resources/gpu_memory_peak_gib", "rldk/resources/gpu_memory_reserved_gib"
ENOUGH = 20
"""Rows before stability and convergence are judged."""


class Scores(Stateful):
    """Follows a run beside its watches."""

    STATE: ClassVar[tuple[str, ...]] = ("rows", "unstable", "trend", "solved", "collapsed", "memory")

    def __init__(self) -> None:
        self.rows = 0
        self.unstable: float | None = None
        self.trend = RunTrend()
        self.solved = self.collapsed = False
        self.memory: float | None = None

    def follow(self, row: Mapping[str, float], watches: Mapping[str, Watch]) -> Mapping[str, float]:
        """Take a row, before it is judged; returns it with the scores that rules may watch."""
        known = [watches[name] for name in UNSTABLE if name in watches and watches[name].known]
        if known:
            shaken = any(watch.finding is not None and watch.finding.breached for watch in known)
            self.unstable = 0.0 if self.unstable is None else self.unstable + (shaken - self.unstable) / 10.5
            self.rows += 1
        reward = row.get("rldk/reward/mean")
        if reward is not None:
            self.trend.add(reward)
        peak, reserved = row.get(PEAK), row.get(RESERVED)
        if peak is not None and reserved:
            self.memory = min(1.0, peak / reserved)
        self.solved = _fires(watches, "reward.saturated")
        self.collapsed = _fires(watches, "reward.collapse")
        if self.unstable is not None and self.rows >= ENOUGH:
            return {**row, "rldk/health/stability": 1.0 - self.unstable}
        return row

    @property
    def verdict(self) -> str | None:
        """The convergence, in a word."""
        if self.solved:
            return "solved"
        if self.collapsed:
            return "diverging"
        return self.trend.verdict()

    def read(self, watches: Mapping[str, Watch]) -> dict[str, float]:
        """The scores that are known."""
        parts: dict[str, float] = {}
        risks: dict[str, float] = {}
        for watch in watches.values():
            if watch.known:
                penalty = 1.0 if watch.severity is None else PENALTY[watch.severity]
                if penalty < parts.get(watch.part, 2.0):
                    parts[watch.part] = penalty
                if watch.condition.risk_key is not None and watch.condition.risk is not None:
                    risks[watch.condition.risk_key] = watch.condition.risk
        parts.pop("rldk/health/health", None)
        scores = {**parts, **risks}
        if parts:
            scores["rldk/health/score"] = math.prod(parts.values())
        if self.unstable is not None and self.rows >= ENOUGH:
            scores["rldk/health/stability"] = 1.0 - self.unstable
        if self.memory is not None:
            scores["rldk/health/memory_efficiency"] = self.memory
        verdict = self.verdict
        if verdict is not None:
            scores["rldk/health/convergence"] = CONVERGENCE[verdict]
        if self.trend.slope is not None:
            low, slope, high = self.trend.slope
            scores["rldk/health/convergence_slope"] = slope
            scores["rldk/health/convergence_slope_low"] = low
            scores["rldk/health/convergence_slope_high"] = high
        return scores


def _fires(watches: Mapping[str, Watch], rule: str) -> bool:
    watch = watches.get(rule)
    return watch is not None and watch.severity is not None
