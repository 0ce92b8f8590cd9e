"""Whether the reward still tells completions of one prompt apart, and whether that is because the task is solved."""

from __future__ import annotations

from typing import ClassVar

from rldk_tracking.health.conditions.base import Condition, Finding, Row


class Ties(Condition):
    """Breached where hardly any group has a spread in reward: no advantage, no gradient from the reward.

    What is smoothed is the share of tied groups. Where the log has no such share, a batch counts as tied if its
    standard deviation is at most `threshold` or `negligible` of the largest that was seen; where it has no standard
    deviation either, if the mean repeats exactly. Groups that are half tied count as tied where what is left of the
    spread is below `negligible_of_mean` of the mean: a reward that says nearly always the same.

    `solved` chooses which half of these cases to report. Solved means that the smoothed mean is at the task's ceiling:
    `ceiling` where it is given, else the highest mean of the run if the reward had to climb there.

    Args:
        solved: True reports tied groups at the ceiling, False those elsewhere.
        tied: share of groups that are tied.
        threshold: a standard deviation of the reward at or below which the batch counts as tied.
        ceiling: the highest reward that the task can give.
        margin: how near the ceiling counts as there, as a share of the range of mean rewards.
        climb: the rise of the mean that makes a highest mean a ceiling, in units of the largest standard deviation.
        span: observations of the exponential means.
    """

    STATE: ClassVar[tuple[str, ...]] = (
        *Condition.STATE, "tied", "mean", "spread", "widest", "highest", "lowest", "first", "last", "count",
    )  # fmt: skip

    def __init__(
        self,
        keys: tuple[str, ...],
        *,
        solved: bool,
        tied: float = 0.8,
        threshold: float = 0.0,
        negligible: float = 0.02,
        negligible_of_mean: float = 0.05,
        ceiling: float | None = None,
        margin: float = 0.15,
        climb: float = 1.0,
        span: float = 10.0,
        spread_keys: tuple[str, ...] = ("rldk/reward/group_std_mean", "rldk/reward/std"),
        mean_key: str = "rldk/reward/mean",
    ) -> None:
        super().__init__(keys)
        self.solved, self.limit, self.threshold = solved, tied, threshold
        self.negligible, self.negligible_of_mean = negligible, negligible_of_mean
        self.ceiling, self.margin, self.climb = ceiling, margin, climb
        self.weight = 2.0 / (span + 1.0)
        self.spread_keys, self.mean_key = tuple(spread_keys), mean_key
        self.tied: float | None = None
        self.mean: float | None = None
        self.spread: float | None = None
        self.highest: float | None = None
        self.lowest: float | None = None
        self.first: float | None = None
        self.last: float | None = None
        self.widest = 0.0
        self.count = 0

    def judge(self, step: int, row: Row) -> Finding | None:
        """Smooth the share of tied groups and ask whether the reward is at its ceiling."""
        mean = row.get(self.mean_key)
        spread = next((row[key] for key in self.spread_keys if key in row), None)
        value = self._tied_share(row, mean, spread)
        self._follow(mean, spread)
        if value is None:
            return None
        self.count += 1
        self.tied = value if self.tied is None else self.tied + max(self.weight, 1 / self.count) * (value - self.tied)
        tied = self.tied
        if tied > 0.4 and self.spread is not None and self.mean is not None:
            tied = 1.0 if self.spread <= self.negligible_of_mean * abs(self.mean) else tied
        there = self._at_ceiling()
        breached = tied > self.limit and there == self.solved
        clear = tied < self.limit - 0.1 or there != self.solved
        evidence: dict[str, float | str] = {"tied": tied}
        if self.mean is not None:
            evidence["reward"] = self.mean
        return Finding(breached, clear, value, self.limit, False, evidence, self.key)

    def _tied_share(self, row: Row, mean: float | None, spread: float | None) -> float | None:
        value = self.read(row)
        if spread is not None and spread <= self.threshold:
            return 1.0
        if value is not None or self.key is not None:
            return value
        if spread is not None:
            return float(spread <= self.negligible * self.widest)
        if mean is not None and self.spread is None and self.last is not None:
            return float(mean == self.last)
        return None

    def _follow(self, mean: float | None, spread: float | None) -> None:
        if spread is not None:
            self.spread = spread if self.spread is None else self.spread + self.weight * (spread - self.spread)
            self.widest = max(self.widest, spread)
        if mean is None:
            return
        self.last = mean
        self.mean = mean if self.mean is None else self.mean + self.weight * (mean - self.mean)
        if self.first is None:
            self.first = mean
        self.highest = self.mean if self.highest is None else max(self.highest, self.mean)
        self.lowest = self.mean if self.lowest is None else min(self.lowest, self.mean)

    def _at_ceiling(self) -> bool:
        if self.mean is None or self.highest is None or self.lowest is None:
            return False
        if self.ceiling is not None:
            extent = max(self.ceiling - self.lowest, 0.1 * abs(self.ceiling))
            return self.mean >= self.ceiling - self.margin * extent
        extent = self.highest - self.lowest
        climbed = self.widest > 0 and extent >= self.climb * self.widest
        return climbed and self.mean >= self.highest - self.margin * extent
