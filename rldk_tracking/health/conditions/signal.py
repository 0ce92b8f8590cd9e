"""Whether the reward still tells completions of one prompt apart, and whether that is because the task is solved."""

from __future__ import annotations

from typing import ClassVar

from rldk_tracking.health.conditions.base import Condition, Finding, Row
from rldk_tracking.health.detectors.progress import Progress

PRIOR_ROWS, PRIOR_TIED = 4.0, 1.0
"""What is believed of a run before its first row: one row in four is all tied."""


class Ties(Condition):
    """Breached where hardly any group has a spread in reward: no advantage, no gradient from the reward.

    Judged is the share of groups that are tied. Where a log has no such share, a batch counts as tied if its standard
    deviation is at most `threshold` or `negligible` of the largest that was seen; where it has no standard deviation
    either, if the mean is what it was. A mean that stands at one exact value most of the time, and hardly leaves it,
    counts as tied as well: the reward function nearly always says the same.

    It is breached in two ways. *Now*: so many rows in a row with all groups tied are improbable for a run in which that
    used to happen as often as it did before (a run of one group a row is often tied, one of a hundred groups never).
    *On average*: the mean share, exponential over `span`, is above `often`; a run that is near the ceiling of its task
    (`Progress.near_ceiling`) may have `nearly_all` tied and still learn from the rest.

    `solved` chooses which half of these cases to report, see `Progress.solved`.

    Args:
        solved: True reports tied groups at the ceiling, False those elsewhere.
        threshold: a standard deviation of the reward at or below which the batch counts as tied.
        improbable: the probability below which a row of tied rows is not chance. A hundred times that is enough where
            the reward is at the lowest of the run.
        often, nearly_all: shares of tied groups; the lower end of a one-sided 95 % interval is held to them.
        ceiling: the highest reward that the task can give.
        minimum: observations before an average is judged.
    """

    STATE: ClassVar[tuple[str, ...]] = (
        *Condition.STATE, "tied", "variance", "count", "in_a_row", "before", "before_tied", "progress", "last",
        "usual", "votes", "at_usual", "off_usual",
    )  # fmt: skip

    def __init__(
        self,
        keys: tuple[str, ...],
        *,
        solved: bool,
        threshold: float = 0.0,
        improbable: float = 1e-5,
        often: float = 0.75,
        nearly_all: float = 0.93,
        negligible: float = 0.02,
        ceiling: float | None = None,
        span: float = 50.0,
        minimum: int = 20,
        spread_keys: tuple[str, ...] = ("rldk/reward/group_std_mean", "rldk/reward/std"),
        mean_key: str = "rldk/reward/mean",
    ) -> None:
        super().__init__(keys)
        self.solved, self.threshold, self.improbable = solved, threshold, improbable
        self.often, self.nearly_all, self.negligible = often, nearly_all, negligible
        self.minimum = minimum
        self.progress = Progress(ceiling)
        self.weight = 2.0 / (span + 1.0)
        self.spread_keys, self.mean_key = tuple(spread_keys), mean_key
        self.tied = self.variance = 0.0
        self.usual: float | None = None
        self.votes = 0
        self.at_usual = self.off_usual = 0.0
        self.in_a_row = 0
        self.before, self.before_tied = PRIOR_ROWS, PRIOR_TIED
        self.last: float | None = None
        self.count = 0

    def judge(self, step: int, row: Row) -> Finding | None:
        """Count rows that are all tied, follow the average, and ask whether the reward is at its ceiling."""
        mean = row.get(self.mean_key)
        spread = next((row[key] for key in self.spread_keys if key in row), None)
        value = self._tied_share(row, mean, spread)
        self.progress.add(row)
        if mean is not None:
            self._follow_usual(mean)
        if value is None:
            return None
        self.count += 1
        weight = max(self.weight, 1.0 / self.count)
        self.variance += weight * ((value - self.tied) ** 2 * (1.0 - weight) - self.variance)
        self.tied += weight * (value - self.tied)
        if value >= self.nearly_all:
            self.in_a_row += 1
        else:
            self.before += 1 + self.in_a_row
            self.before_tied += self.in_a_row
            self.in_a_row = 0
        usual = self.before_tied / self.before
        usual = min(1.0, usual + (usual * (1.0 - usual) / self.before) ** 0.5)
        chance = usual**self.in_a_row
        now = self.in_a_row >= 4 and chance < self.improbable * (100.0 if self.progress.at_lowest else 1.0)
        limit = self.nearly_all if self.progress.near_ceiling else self.often
        surely = self.tied - 1.64 * (self.variance * weight) ** 0.5
        average = self.count >= self.minimum and (surely > limit or self._frozen())
        there = self.progress.solved
        breached = (now or average) and there == self.solved
        clear = there != self.solved or (value < self.nearly_all and self.tied < limit and not self._frozen())
        evidence: dict[str, float | str] = {"tied": self.tied, "rows_in_a_row": self.in_a_row}
        if self.progress.mean is not None:
            evidence["reward"] = self.progress.mean
        return Finding(breached, clear, value if now else self.tied, limit, False, evidence, self.key)

    def _tied_share(self, row: Row, mean: float | None, spread: float | None) -> float | None:
        value = self.read(row)
        if spread is not None and spread <= self.threshold:
            return 1.0
        if value is not None or self.key is not None:
            return value
        if spread is not None:
            return float(spread <= self.negligible * max(self.progress.widest, spread))
        if mean is not None and self.progress.spread is None and self.last is not None:
            return float(abs(mean - self.last) <= 1e-6 * abs(mean))
        return None

    def _follow_usual(self, mean: float) -> None:
        """The value that most means have, by majority vote (Boyer and Moore 1981), and how often it is met."""
        self.last = mean
        if self.usual is None:
            self.usual = mean
            return
        distance = abs(mean - self.usual)
        met = distance <= 1e-6 * abs(mean)
        self.at_usual += 0.05 * (met - self.at_usual)
        self.off_usual += 0.05 * (distance - self.off_usual)
        if met:
            self.votes = min(self.votes + 1, 50)
        elif self.votes > 0:
            self.votes -= 1
        else:
            self.usual = mean

    def _frozen(self) -> bool:
        """Whether about half of the means are one exact value and the others are within a tenth of it."""
        return self.usual is not None and self.at_usual > 0.4 and self.off_usual <= 0.1 * abs(self.usual)
