"""Whether the reward still tells completions of one prompt apart, and whether that is because the task is solved."""

from __future__ import annotations

from typing import ClassVar

from rldk_tracking.health.conditions.base import Condition, Finding, Row


class Ties(Condition):
    """Breached where hardly any group has a spread in reward: no advantage, no gradient from the reward.

    `solved` chooses which half of these cases to report. Solved means that the mean reward stands at the task's
    ceiling: `ceiling` where it is given, else the highest single reward of the run, once rewards have differed.

    Args:
        solved: True reports tied groups at the ceiling, False those elsewhere.
        tied: share of groups that are tied.
        threshold: a standard deviation of the reward at or below which the batch counts as tied.
        ceiling: the highest reward that the task can give.
        margin: how near the ceiling counts as there, as a share of the range of rewards that was seen.
        spread_keys: standard deviation of the reward over the batch.
    """

    STATE: ClassVar[tuple[str, ...]] = (*Condition.STATE, "tied", "highest", "lowest")

    def __init__(
        self,
        keys: tuple[str, ...],
        *,
        solved: bool,
        tied: float = 0.9,
        threshold: float = 0.0,
        ceiling: float | None = None,
        margin: float = 0.05,
        span: float = 5.0,
        spread_keys: tuple[str, ...] = ("rldk/reward/std",),
        mean_key: str = "rldk/reward/mean",
        max_key: str = "rldk/reward/max",
        min_key: str = "rldk/reward/min",
    ) -> None:
        super().__init__(keys)
        self.solved, self.limit, self.ceiling, self.margin = solved, tied, ceiling, margin
        self.threshold = threshold
        self.weight = 2.0 / (span + 1.0)
        self.spread_keys = tuple(spread_keys)
        self.mean_key, self.max_key, self.min_key = mean_key, max_key, min_key
        self.tied: float | None = None
        self.highest: float | None = None
        self.lowest: float | None = None

    def judge(self, step: int, row: Row) -> Finding | None:
        """Smooth the share of tied groups and ask whether the reward is at its ceiling."""
        mean = row.get(self.mean_key)
        self._follow_range(row, mean)
        value = self.read(row)
        spread = next((row[key] for key in self.spread_keys if key in row), None)
        if spread is not None and spread <= self.threshold:
            value = 1.0
        elif value is None:
            if spread is None or self.key is not None:
                return None
            value = 0.0
        self.tied = value if self.tied is None else self.tied + self.weight * (value - self.tied)
        there = self._at_ceiling(mean)
        breached = min(value, self.tied) > self.limit and there == self.solved
        clear = self.tied < self.limit - 0.1 or there != self.solved
        evidence: dict[str, float | str] = {"tied": self.tied}
        if mean is not None:
            evidence["reward"] = mean
        return Finding(breached, clear and not breached, value, self.limit, False, evidence, self.key)

    def _follow_range(self, row: Row, mean: float | None) -> None:
        for value in (row.get(self.max_key), row.get(self.min_key), mean):
            if value is not None:
                self.highest = value if self.highest is None else max(self.highest, value)
                self.lowest = value if self.lowest is None else min(self.lowest, value)

    def _at_ceiling(self, mean: float | None) -> bool:
        if mean is None or self.highest is None or self.lowest is None:
            return False
        extent = self.highest - self.lowest
        if self.ceiling is not None:
            extent = max(extent, abs(self.ceiling))
            return mean >= self.ceiling - self.margin * extent
        return extent > 0 and mean >= self.highest - self.margin * extent
