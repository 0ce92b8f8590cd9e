"""The condition on what the reward still tells: completions that it cannot tell apart."""

from __future__ import annotations

from typing import Annotated

from rldk_tracking.health.conditions.base import (
    REWARD_MEAN,
    REWARD_SPREADS,
    Condition,
    Count,
    Finding,
    Progress,
    Row,
    Share,
    Span,
    condition,
    first_of,
)
from rldk_tracking.health.conditions.parts import Parts
from rldk_tracking.health.detectors import remembered

PRIOR_ROWS, PRIOR_TIED = 4.0, 1.0
"""What is believed of a run before its first row: one row in four is all tied."""
LEAST_IN_A_ROW = 4
"""Rows without any spread that may be more than chance."""
OFTEN_AT_USUAL = 0.4
"""Share of rows with the very same mean reward, above which the reward says always the same."""


@condition("ties")
class TiedGroups(Condition):
    """Breached where hardly any group has a spread in reward: no advantage, no gradient from the reward.

    Judged is the share of groups that are tied. Where a log has no such share, a batch counts as tied if its standard
    deviation is at most `threshold` or `negligible` of the largest that was seen; where it has no standard deviation
    either, if the mean is what it was. A mean that stands at one exact value most of the time, and hardly leaves it,
    counts as tied as well: the reward function nearly always says the same.

    It is breached in two ways. *Now*: so many rows in a row with all groups tied are improbable for a run in which that
    used to happen as often as it did before (a run of one group a row is often tied, one of a hundred groups never).
    *On average*: the mean share, exponential over `span`, is above `often`; a run that is near the ceiling of its task
    (`Progress.near_ceiling`) may have `nearly_all` tied and still learn from the rest. A run in which a part of the
    reward gives nothing, or fell, has not solved its task.
    """

    solved: Annotated[bool, "True reports tied groups at the ceiling of the task, False those elsewhere"]
    threshold: Annotated[float, "a standard deviation of the reward at or below which the batch counts as tied"] = 0.0
    improbable: Annotated[
        Share,
        "the probability below which a row of tied rows is not chance. A hundred times that is enough where the reward "
        "is at the lowest of the run",
    ] = 1e-5
    often: Annotated[Share, "share of tied groups to which the lower end of a one-sided 95 % interval is held"] = 0.75
    nearly_all: Annotated[Share, "the same near the ceiling; and from which a row is all tied"] = 0.93
    negligible: Annotated[Share, "of the largest spread, up to which a batch counts as tied"] = 0.02
    ceiling: Annotated[float | None, "the highest reward that the task can give"] = None
    span: Span = 50.0
    minimum: Annotated[Count, "observations before an average is judged"] = 20
    spread_keys: Annotated[tuple[str, ...], "where the spread of the reward is found"] = REWARD_SPREADS
    mean_key: Annotated[str, "where the mean reward is found"] = REWARD_MEAN
    tied: float = remembered(0.0)
    variance: float = remembered(0.0)
    count: int = remembered(0)
    in_a_row: int = remembered(0)
    before: float = remembered(PRIOR_ROWS)
    before_tied: float = remembered(PRIOR_TIED)
    progress: Progress = remembered()
    parts: Parts = remembered(Parts)
    last: float | None = remembered()
    usual: float | None = remembered()
    votes: int = remembered(0)
    at_usual: float = remembered(0.0)
    off_usual: float = remembered(0.0)

    def __post_init__(self) -> None:
        self.progress = Progress(self.ceiling)

    def judge(self, step: int, row: Row) -> Finding | None:
        """Count rows that are all tied, follow the average, and ask whether the reward is at its ceiling."""
        mean = row.get(self.mean_key)
        value = self._tied_share(row, mean)
        self.progress.add(row)
        self.parts.add(row)
        if mean is not None:
            self._follow_usual(mean)
        if value is None:
            return None
        self.count += 1
        weight = max(2.0 / (self.span + 1.0), 1.0 / self.count)
        self.variance += weight * ((value - self.tied) ** 2 * (1.0 - weight) - self.variance)
        self.tied += weight * (value - self.tied)
        if value >= self.nearly_all:
            self.in_a_row += 1
        else:
            self.before += 1 + self.in_a_row
            self.before_tied += self.in_a_row
            self.in_a_row = 0
        now = self.in_a_row >= LEAST_IN_A_ROW and self._is_improbable()
        limit = self.nearly_all if self.progress.near_ceiling() else self.often
        surely = self.tied - 1.64 * (self.variance * weight) ** 0.5
        average = self.count >= self.minimum and (surely > limit or self._is_frozen())
        lost = self.parts.lost if self.progress.solved else None
        there = self.progress.solved and lost is None
        breached = (now or average) and there == self.solved
        clear = there != self.solved or (value < self.nearly_all and self.tied < limit and not self._is_frozen())
        evidence: dict[str, float | str] = {"tied": self.tied, "rows_in_a_row": self.in_a_row}
        evidence["tie"] = "groups have completions of equal reward"
        evidence["lost"] = "" if lost is None else f", without the part {lost}"
        if self.progress.mean is not None:
            evidence["reward"] = self.progress.mean
        found = Finding(breached, clear, self.tied, limit, False, evidence, self.key)
        found.judged = self.count >= LEAST_IN_A_ROW
        if now:
            found.value, found.threshold = value, self.nearly_all
        elif average and self.tied <= limit:
            found.value, found.threshold = self.at_usual, OFTEN_AT_USUAL
            evidence["tie"] = "rows have one and the same mean reward"
        else:
            found.averaged_rows, found.now = min(self.span, self.count), value
        return found

    def _is_improbable(self) -> bool:
        """Whether so many tied rows are more than chance, by how often a row was tied before."""
        usual = self.before_tied / self.before
        usual = min(1.0, usual + (usual * (1.0 - usual) / self.before) ** 0.5)
        return bool(usual**self.in_a_row < self.improbable * (100.0 if self.progress.at_lowest else 1.0))

    def _tied_share(self, row: Row, mean: float | None) -> float | None:
        value = self.read(row)
        key = first_of(self.spread_keys, row)
        if key is not None and row[key] <= self.threshold:
            return 1.0
        if value is not None or self.key is not None:
            return value
        if key is not None:
            return float(row[key] <= self.negligible * max(self.progress.widest, row[key]))
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

    def _is_frozen(self) -> bool:
        """Whether about half of the means are one exact value and the others are within a tenth of it."""
        return self.usual is not None and self.at_usual > OFTEN_AT_USUAL and self.off_usual <= 0.1 * abs(self.usual)
