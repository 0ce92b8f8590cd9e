"""Conditions on changes that no single value would show: a shifted level, a run that slows down, steady growth."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated

from rldk_tracking.health.conditions.base import (
    Condition,
    Count,
    Direction,
    Finding,
    NonNegative,
    Row,
    ZeroIsMissing,
    condition,
    sign_of,
    smoothed,
)
from rldk_tracking.health.conditions.changes import AcceptAfter, Window
from rldk_tracking.health.detectors import Stateful, remembered
from rldk_tracking.health.detectors.baseline import Baseline, NewLevel

RECENT_ROWS = 9.0
"""Of the exponential mean that is the level of now."""


@dataclass(eq=False)
class ShiftedLevel(Stateful):
    """Whether a series's exponential mean is away from the median of its past by a share of it."""

    key: str
    sign: float
    share: float
    past: Baseline = remembered(lambda: Baseline(64, delay=16))
    mean: float | None = remembered()

    def add(self, row: Row) -> bool:
        """Take the row; True while the mean is away. False where nothing is known."""
        value = row.get(self.key)
        if value is not None:
            self.mean = smoothed(self.mean, value, 0.2)
        if self.mean is None or not len(self.past) or self.past.median == 0.0:
            moved = False
        else:
            limit = self.past.median * (1.0 + self.share) ** self.sign
            moved = self.sign * (self.mean - limit) > 0
        if value is not None and not moved:
            self.past.add(value)
        return moved


def inflation(autocorrelation: float) -> float:
    """By how much a first-order autoregression widens the error of a mean: sqrt((1 + r) / (1 - r)), at least 1."""
    r = min(max(autocorrelation, 0.0), 0.95)
    return math.sqrt((1.0 + r) / (1.0 - r))


@dataclass(eq=False)
class Cusum(Stateful):
    """A control chart for a lasting shift of a mean, on values in standard deviations of a healthy baseline.

    Page's cumulative sum (1954): of what exceeds half of the shift that matters, never below 0. The textbook limit
    holds for independent values of known mean and variance. Here values follow one another (autocorrelation) and the
    baseline is an estimate from a few dozen of them, so values are divided by `inflation` and the limit is wider. With
    the defaults, at most one in 20 healthy runs of 500 steps alarms at a lag-one autocorrelation of up to 0.8;
    `tests/health/conditions/test_shifts.py` measures it.

    Args:
        shift: the shift that matters, in standard deviations.
        limit: the sum that is a shift.
    """

    shift: float = 1.0
    limit: float = 12.0
    total: float = remembered(0.0)

    def add(self, value: float) -> bool:
        """Take a value; True while the sum is beyond the limit. It grows to twice the limit, so that it can end."""
        self.total = min(max(0.0, self.total + value - self.shift / 2.0), 2.0 * self.limit)
        return self.total > self.limit


@condition("shift")
class Shift(Condition):
    """Breached where the cumulative sum of the standardised values is beyond its limit and the shift is large enough.

    Values are standardised by the median and the wander of the run's own recent past, widened for autocorrelation,
    and cut at four standard deviations: one wild value is no shift. The past stops to be updated while the sum is
    more than halfway to its limit. A share of 0 means nothing: while the median is 0, a rule with a `share` is not
    judged.
    """

    direction: Direction = "up"
    limit: Annotated[NonNegative | None, "of the sum; None for that of `Cusum`"] = None
    share: Annotated[NonNegative, "smallest shift that matters, as a share of the baseline's size"] = 0.0
    log: Annotated[
        bool,
        "whether to judge the logarithm, for values that vary in proportion (times, rates). Values of 0 or less are "
        "then no observation",
    ] = False
    minimum: Annotated[Count, "values that make up the first baseline"] = 24
    window: Window = 64
    agree: Annotated[str | None, "another series whose level must have shifted the same way, by half the share"] = None
    accept_after: AcceptAfter = None
    zero_is_missing: ZeroIsMissing = False
    baseline: Baseline = remembered()
    cusum: Cusum = remembered()
    last: float | None = remembered()
    product: float = remembered(0.0)
    square: float = remembered(0.0)
    recent: float | None = remembered()
    level: NewLevel = remembered()
    agreeing: ShiftedLevel | None = remembered()

    def __post_init__(self) -> None:
        self.sign = sign_of(self.direction)
        self.baseline, self.level = Baseline(self.window, delay=4), NewLevel(self.accept_after)
        self.cusum = Cusum() if self.limit is None else Cusum(limit=self.limit)
        if self.agree is not None:
            self.agreeing = ShiftedLevel(self.agree, self.sign, self.share / 2)

    def reads(self) -> Iterable[str]:
        """The series that agrees, too."""
        return self.keys if self.agree is None else (*self.keys, self.agree)

    def judge(self, step: int, row: Row) -> Finding | None:
        """Standardise the value and add it to the sum."""
        agreed = self.agreeing is None or self.agreeing.add(row)
        value = self.read(row)
        if value is None or (self.log and value <= 0.0):
            return None
        level = math.log(value) if self.log else value
        baseline = self.baseline
        is_empty = not self.log and self.share > 0.0 and len(baseline) > 0 and baseline.median == 0.0
        if len(baseline) < self.minimum or is_empty:
            baseline.add(level)
            self._correlate(level)
            return self.learns(value)
        middle, wander = baseline.median, baseline.wander
        scale = max(wander * inflation(self.autocorrelation), 1e-3 * abs(middle), 1e-12)
        beyond = self.cusum.add(min(max(self.sign * (level - middle) / scale, -4.0), 4.0))
        self.recent = smoothed(self.recent, level, 2.0 / (RECENT_ROWS + 1.0))
        smallest = math.log1p(self.share) if self.log else self.share * abs(middle)
        breached = beyond and self.sign * (self.recent - middle) > smallest and agreed
        self._learn(level, breached, middle + self.sign * smallest / 2)
        is_back = self.level.is_back(self.recent, self.sign)
        ends = (self.recent, middle + self.sign * smallest, middle)
        recent, limit, normal = (math.exp(end) for end in ends) if self.log else ends
        found = Finding(breached, not beyond and is_back, recent, limit, False, {"normal": normal}, self.key)
        found.averaged_rows, found.now = RECENT_ROWS, value
        return found

    @property
    def autocorrelation(self) -> float:
        """Of neighbours, about the baseline; 0 while nothing varies."""
        return self.product / self.square if self.square > 0 else 0.0

    def _correlate(self, level: float) -> None:
        middle = self.baseline.median if len(self.baseline) else level
        here, before = level - middle, (self.last if self.last is not None else level) - middle
        self.last = level
        self.product += 0.05 * (here * before - self.product)
        self.square += 0.05 * (here * here - self.square)

    def _learn(self, level: float, breached: bool, back: float) -> None:
        if breached:
            if self.level.add(level, back, self.baseline):
                self.cusum.total = 0.0
            return
        self.level.beyond = []
        is_suspicious = self.cusum.total > self.cusum.limit / 2
        if not is_suspicious:
            self.baseline.add(level)
            self._correlate(level)


@condition("slowdown")
class Slowdown(Shift):
    """Breached where a rate has shifted down (see `Shift`) for `seconds` of wall time and for `rows` rows.

    It must have been at its usual for as long before, in wall time.

    Steps are no measure of how long something lasts: in a run with ten steps a second, another job on the machine spans
    thousands of them and is gone before anyone could have looked. The wall time is that of the rows: the time of a step
    times the steps since the row before. Where rows do not tell it, their number alone counts. A new level is accepted
    only after it was reported.
    """

    direction: Direction = field(default="down", init=False)
    limit: float | None = field(default=None, init=False)
    log: bool = field(default=True, init=False)
    zero_is_missing: bool = field(default=False, init=False)
    share: Annotated[NonNegative, "smallest shift that matters, as a share of the usual rate"] = 1.0
    seconds: Annotated[NonNegative, "how long the rate must have been low"] = 600.0
    rows: Annotated[Count, "for how many rows"] = 15
    seconds_key: Annotated[str, "where the time of a step is found"] = "rldk/throughput/step_seconds"
    slow: float = remembered(0.0)
    usual: float = remembered(0.0)
    count: int = remembered(0)
    before: int | None = remembered()

    def judge(self, step: int, row: Row) -> Finding | None:
        """Follow the rate, and for how long it has been what it is."""
        elapsed = row.get(self.seconds_key)
        steps = 1 if self.before is None else max(1, step - self.before)
        finding = super().judge(step, row)
        if finding is None:
            return None
        self.before = step
        passed = 0.0 if elapsed is None else elapsed * steps
        if finding.breached:
            self.slow, self.count = self.slow + passed, self.count + 1
        else:
            self.slow, self.count = 0.0, 0
            self.usual += passed
        long = elapsed is None or min(self.slow, self.usual) >= self.seconds
        finding.breached = finding.breached and long and self.count >= self.rows
        return finding

    def _learn(self, level: float, breached: bool, back: float) -> None:
        if breached and 0.0 < self.slow < self.seconds:
            self.baseline.freeze()
        else:
            super()._learn(level, breached, back)


@condition("growth")
class Growth(Condition):
    """Breached where nearly every block of observations is above the one before it, and the rise is large."""

    block: Annotated[
        Count,
        "observations whose minimum makes up one block; the minimum, because a cache that fills and empties is no leak",
    ] = 10
    blocks: Annotated[Count, "how many blocks in a row must have risen"] = 6
    share: Annotated[NonNegative, "the rise over those blocks, as a share of the first"] = 0.1
    floor: Annotated[NonNegative, "the rise over those blocks in the unit of the value"] = 0.0
    count: int = remembered(0)
    lowest: float | None = remembered()
    lows: deque[float] = remembered()

    def __post_init__(self) -> None:
        self.lows = deque(maxlen=self.blocks + 1)

    def judge(self, step: int, row: Row) -> Finding | None:
        """Close a block when it is full, and look at the blocks."""
        value = self.read(row)
        if value is None:
            return None
        self.lowest = value if self.lowest is None else min(self.lowest, value)
        self.count += 1
        if self.count == self.block:
            self.lows.append(self.lowest)
            self.count, self.lowest = 0, None
        lows = list(self.lows)
        limit = max(self.floor, self.share * abs(lows[0])) if lows else 0.0
        if len(lows) <= self.blocks or limit == 0.0:  # a share of nothing
            return self.learns(value)
        rising = all(later > earlier for earlier, later in pairwise(lows))
        rise = lows[-1] - lows[0]
        evidence = {"rise": rise, "rows": float(self.block * (len(lows) - 1))}
        return Finding(rising and rise > limit, not rising, lows[-1], lows[0] + limit, False, evidence, self.key)
