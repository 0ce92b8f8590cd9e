"""The condition on what the reward still tells: completions that it cannot tell apart."""

from __future__ import annotations

from dataclasses import dataclass
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
from rldk_tracking.health.conditions.parts import FUNCTION, Parts
from rldk_tracking.health.conditions.silence import named
from rldk_tracking.health.detectors import Stateful, remembered

PRIOR_ROWS, PRIOR_TIED = 4.0, 1.0
"""What is believed of a run before its first row: one row in four is all tied."""
LEAST_IN_A_ROW = 4
"""Rows without any spread that may be more than chance."""
OFTEN_AT_USUAL = 0.4
"""Share of rows with the very same mean reward, above which the reward says always the same."""

SAME_ROWS = 40
"""Rows with the same mean from the first on, before it is said of a log that shows nothing else of the reward."""
LENGTH, TRUNCATED = "rldk/length/mean", "rldk/length/truncated_fraction"
OF_ROLLOUT = (REWARD_MEAN, *REWARD_SPREADS, LENGTH, TRUNCATED)
"""What is measured once a rollout: two rows that agree in all of it may be two updates from one rollout."""
GRADIENT = "rldk/grad/norm"
ADVANTAGES = ("rldk/advantage/std", "rldk/advantage/raw_std", "rldk/advantage/abs_p99")


@dataclass(eq=False)
class Rollouts(Stateful):
    """Tells rows that show the rollout of the row before again, as where a rollout has several optimizer steps.

    How many rows a rollout has is the mean number of rows that agreed until now. A run of rows that agree for longer is
    that many rollouts: a reward that stands still is not one rollout for ever. Where a spread of 0 and a length at its
    limit are all that is known, rows agree without being one rollout.
    """

    shown: list[float | None] = remembered(list)
    same: int = remembered(0)
    blocks: int = remembered(0)
    rows: int = remembered(0)

    def is_again(self, row: Row, by_mean: bool) -> bool:
        """Take a row that has a reward.

        Args:
            row: what was logged.
            by_mean: whether the log tells nothing of the reward but its mean.
        """
        free = by_mean or (LENGTH in row and row.get(TRUNCATED, 0.0) < 1.0)
        if not (free or any(row.get(key, 0.0) > 0.0 for key in REWARD_SPREADS)):
            self.shown, self.same = [], 0
            return False
        shown = [row.get(key) for key in OF_ROLLOUT]
        if shown != self.shown and self.same:
            self.blocks, self.rows, self.same = self.blocks + 1, self.rows + self.same, 0
        self.shown = shown
        self.same += 1
        usual = int(self.rows / self.blocks + 0.25) if self.blocks else 1
        return (self.same - 1) % max(1, usual) != 0


@condition("ties")
class TiedGroups(Condition):
    """Breached where hardly any group has a spread in reward: no advantage, no gradient from the reward.

    Judged is the share of groups that are tied. Where a log has no such share, a batch counts as tied if its standard
    deviation is at most `threshold` or `negligible` of the largest that was seen; where it has no standard deviation
    either, if the mean is what it was, or stands at one exact value most of the time and hardly leaves it: the reward
    function nearly always says the same. That is inferred only where nothing contradicts (a gradient that moves, an
    advantage, a reward function whose mean changes), and of a mean that never changed only after `SAME_ROWS`. Rows that
    show one rollout again count once (`Rollouts`).

    It is breached in two ways. *Now*: so many rows in a row with all groups tied are improbable for a run in which that
    used to happen as often as it did before (a run of one group a row is often tied, one of a hundred groups never).
    *On average*: the mean share, exponential over `span`, is above `often`; a run that is near the ceiling of its task
    (`Progress.near_ceiling`) may have `nearly_all` tied and still learn from the rest. A run in which a part of the
    reward gives nothing, or fell, has not solved its task.
    """

    reads_others = True  # the parts of the reward, whatever their names

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
    gradient: float | None = remembered()
    functions: dict[str, float] = remembered(dict)
    rollouts: Rollouts = remembered(Rollouts)
    usual: float | None = remembered()
    votes: int = remembered(0)
    at_usual: float = remembered(0.0)
    off_usual: float = remembered(0.0)

    def __post_init__(self) -> None:
        self.progress = Progress(self.ceiling)

    def judge(self, step: int, row: Row) -> Finding | None:
        """Count rows that are all tied, follow the average, and ask whether the reward is at its ceiling."""
        mean = row.get(self.mean_key)
        by_mean = self.key is None and self.progress.spread is None
        by_mean = by_mean and first_of((*self.keys, *self.spread_keys), row) is None
        if mean is not None and self.rollouts.is_again(row, by_mean):
            return None
        if self.rollouts.blocks == 1 and self.rollouts.rows > self.rollouts.same == 1:
            self._forget()
        contradicted = self._contradicts(row)
        value = self._tied_share(row, None if contradicted else mean)
        self.progress.add(row)
        self.parts.add(row)
        if mean is not None:
            self._follow_usual(mean, by_mean and not contradicted)
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
        enough = not by_mean or self.rollouts.blocks > 0 or self.in_a_row >= SAME_ROWS - 1
        now = enough and self.in_a_row >= LEAST_IN_A_ROW and self._is_improbable()
        progress = self.progress
        limit = self.nearly_all if progress.near_ceiling() else self.often
        surely = self.tied - 1.64 * (self.variance * weight) ** 0.5
        frozen = by_mean and self._is_frozen()
        average = enough and self.count >= self.minimum and (surely > limit or frozen)
        solved = progress.solved
        lost = self.parts.lost if solved else None
        there = solved and lost is None
        breached = (now or average) and there == self.solved
        clear = there != self.solved or (value < self.nearly_all and self.tied < limit and not frozen)
        evidence: dict[str, float | str] = {"tied": self.tied, "rows_in_a_row": self.in_a_row}
        evidence["tie"] = self._tie(mean, by_mean, now)
        evidence["lost"] = "" if lost is None else f", without the part {lost}"
        if progress.mean is not None:
            evidence["reward"] = progress.mean
        found = Finding(breached, clear, self.tied, limit, False, evidence, self.key)
        found.judged = self.count >= LEAST_IN_A_ROW
        if now:
            found.value, found.threshold = value, self.nearly_all
        elif average and self.tied <= limit:
            found.value, found.threshold = self.at_usual, OFTEN_AT_USUAL
        else:
            found.averaged_rows, found.now = min(self.span, self.count), value
        return found

    def _tie(self, mean: float | None, by_mean: bool, now: bool) -> str:
        """What was seen."""
        if self.key is not None:
            return "groups have completions of equal reward"
        if not by_mean or mean is None:
            return "rows have rewards without any spread"
        return f"{f'last {self.in_a_row + 1} ' if now else ''}rows have the same mean reward, {mean:.4g},"

    def _forget(self) -> None:
        """What was taken for a tie was one rollout that the first rows all showed."""
        self.tied, self.variance, self.count, self.in_a_row = 0.0, 0.0, 0, 0
        self.before, self.before_tied = PRIOR_ROWS, PRIOR_TIED
        self.at_usual = self.off_usual = 0.0

    def _contradicts(self, row: Row) -> bool:
        """Whether a row shows that completions were told apart, whatever their mean."""
        gradient, last = row.get(GRADIENT, 0.0), self.gradient
        before, self.gradient = self.functions, gradient
        self.functions = {key: row[key] for _, key in named(tuple(row), FUNCTION, "/mean")}
        if last is not None and gradient > 0.0 and abs(gradient - last) > 1e-3 * gradient:
            return True
        changed = any(abs(value - before.get(key, value)) > 1e-6 for key, value in self.functions.items())
        return changed or any(row.get(key, 0.0) > 0.0 for key in ADVANTAGES)

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

    def _follow_usual(self, mean: float, counts: bool) -> None:
        """The value that most means have, by majority vote (Boyer and Moore 1981), and how often it is met."""
        self.last = mean
        if not counts:
            self.at_usual *= 0.95
            return
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
