"""A value that has left the level at which the run began, and a value that is wrong when the run begins."""

from __future__ import annotations

from typing import ClassVar, Literal

from rldk_tracking.health.conditions.base import Condition, Finding, Row
from rldk_tracking.health.conditions.level import sign_of
from rldk_tracking.health.detectors.baseline import median_of_sorted
from rldk_tracking.health.detectors.progress import Progress


class FromStart(Condition):
    """Breached where the value is away from the run's first values by `share` of their size.

    Args:
        direction: "up" or "down".
        share: 2.0 upwards is three times the start, 0.9 downwards a tenth of it.
        beyond: an absolute limit that the value must also pass, on the same side.
        change: smallest absolute change that matters.
        early: how many first values make up the start (their median).
        span: observations of the exponential mean that is held to the start; 1 judges single values.
        skip_zero: an exact 0 is no observation (a gradient of 0 has another rule).
        unless_learned: a change that learning explains (`Progress.excuses`) is no breach, if it came gradually: not
            within a few rows from `sudden` times as much.
        capped_key, capped, capped_share: where `capped_key` is above `capped`, a limit outside the policy stops the
            value, and `capped_share` holds in place of `share`.
    """

    STATE: ClassVar[tuple[str, ...]] = (*Condition.STATE, "first", "start", "mean", "slow", "progress")

    def __init__(
        self,
        keys: tuple[str, ...],
        *,
        direction: Literal["up", "down"],
        share: float,
        beyond: float | None = None,
        change: float = 0.0,
        early: int = 8,
        span: float = 1.0,
        zero_is_missing: bool = False,
        skip_zero: bool = False,
        unless_learned: bool = False,
        sudden: float = 5.0,
        capped_key: str | None = None,
        capped: float = 0.5,
        capped_share: float | None = None,
    ) -> None:
        super().__init__(keys, zero_is_missing=zero_is_missing)
        self.sign, self.share, self.beyond, self.change = sign_of(direction), share, beyond, change
        self.early, self.skip_zero = early, skip_zero
        self.capped_key, self.capped, self.capped_share = capped_key, capped, capped_share
        self.weight = 2.0 / (span + 1.0)
        self.progress = Progress() if unless_learned else None
        self.sudden = sudden
        self.slow: float | None = None
        self.mean: float | None = None
        self.first: list[float] = []
        self.start: float | None = None

    def judge(self, step: int, row: Row) -> Finding | None:
        """Hold the value to the start."""
        if self.progress is not None:
            self.progress.add(row)
        value = self.read(row)
        if value is None or (self.skip_zero and value == 0.0):
            return None
        if self.weight < 1.0:
            self.mean = value if self.mean is None else self.mean + self.weight * (value - self.mean)
        if self.start is None:
            self.first.append(value)
            if len(self.first) >= self.early:
                self.start = median_of_sorted(sorted(self.first))
                self.first = []
            return Finding(False, True, value, key=self.key)
        value = value if self.mean is None else self.mean
        sign, share = self.sign, self.share
        if self.capped_share is not None and self.capped_key is not None and row.get(self.capped_key, 0) > self.capped:
            share = self.capped_share
        limit = self.start + sign * max(share * abs(self.start), self.change)
        if self.beyond is not None:
            limit = sign * max(sign * limit, sign * self.beyond)
        self.slow = value if self.slow is None else self.slow + 0.1 * (value - self.slow)
        gradual = abs(value) * self.sudden > abs(self.slow)
        excused = gradual and self.progress is not None and self.progress.excuses
        breached = sign * (value - limit) > 0 and not excused
        clear = sign * (value - (limit + self.start) / 2) <= 0 or excused
        return Finding(breached, clear and not breached, value, limit, False, {"start": self.start}, self.key)


class First(Condition):
    """Breached where the run's first value is beyond a limit, which depends on how surely it is the first.

    A run that is joined later (a log that begins at step 50, a resume without state) is not judged.

    Args:
        exact: the limit at step 0 or 1 where `exact_key` is there too: the value was measured on this step's rollout.
        at_once: the limit at step 0 or 1 without it.
        above: the limit at a step up to `latest`: a log's mean over its first interval, in which the policy moved.
        critical: where it is critical.
        latest: the last step whose value still tells of the beginning.
        sequence_key, sequence_above: the same quantity as a sum over a response, and its limit, where nothing else is.
    """

    STATE: ClassVar[tuple[str, ...]] = (*Condition.STATE, "seen")

    def __init__(
        self,
        keys: tuple[str, ...],
        *,
        exact: float,
        exact_key: str,
        at_once: float,
        above: float,
        critical: float | None = None,
        latest: int = 10,
        sequence_key: str | None = None,
        sequence_above: float = 5.0,
    ) -> None:
        super().__init__((*keys, sequence_key) if sequence_key else keys)
        self.exact, self.exact_key, self.at_once, self.above = exact, exact_key, at_once, above
        self.critical, self.latest = critical, latest
        self.sequence_key, self.sequence_above = sequence_key, sequence_above
        self.seen = 0

    def judge(self, step: int, row: Row) -> Finding | None:
        """Judge the first value; later ones only say when the difference is gone."""
        value = self.read(row)
        if value is None:
            return None
        self.seen += 1
        if self.key == self.sequence_key:
            limit = self.sequence_above
        elif step > 1:
            limit = self.above
        else:
            limit = self.exact if self.exact_key in row else self.at_once
        breached = self.seen == 1 and step <= self.latest and abs(value) > limit
        critical = breached and self.key != self.sequence_key and self.critical is not None
        critical = critical and abs(value) > (self.critical or 0.0)
        return Finding(breached, abs(value) <= limit / 2, value, limit, critical, key=self.key)
