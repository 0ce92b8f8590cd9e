"""How far a run has come with its task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rldk_tracking.health.detectors import Stateful, remembered

REWARD_MEAN = "rldk/reward/mean"
REWARD_SPREADS = ("rldk/reward/group_std_mean", "rldk/reward/std")
TIED_AT_TOP = "rldk/reward/group_tied_fraction_all_max"
PATIENCE_ROWS = 20
"""Rows without a new best after which a reward has stopped to rise."""


@dataclass(eq=False)
class Progress(Stateful):
    """How far a run has come with its task: has the reward climbed, is it at its best, is the task solved?

    Follows the mean reward (exponential mean over 9 rows), its best, and the largest spread of single rewards. What a
    collapse and success have in common is that entropy, diversity and spread go. They differ in the reward.

    Args:
        ceiling: the highest reward that the task can give, where it is known.
        margin: how near the best, or the ceiling, counts as there, as a share of the climb.
        climb: the rise since the first rows that counts as one, in units of the largest spread.
    """

    ceiling: float | None = None
    margin: float = 0.15
    climb: float = 1.0
    count: int = remembered(0)
    mean: float | None = remembered()
    first: float = remembered(0.0)
    best: float = remembered(0.0)
    since_best: int = remembered(0)
    lowest: float = remembered(0.0)
    widest: float = remembered(0.0)
    spread: float | None = remembered()
    all_max: float | None = remembered()

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
