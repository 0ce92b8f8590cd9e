"""Conditions on changes that no single value would show: a shifted level, a run that slows down, steady growth."""

from __future__ import annotations

import math
from collections import deque
from itertools import pairwise
from typing import ClassVar, Literal

from rldk_tracking.health.conditions.base import Condition, Finding, Row, sign_of
from rldk_tracking.health.detectors import Stateful
from rldk_tracking.health.detectors.baseline import Baseline, Cusum, inflation

RECENT_ROWS = 9.0
"""Of the exponential mean that is the level of now."""


class ShiftedLevel(Stateful):
    """Whether a series's exponential mean is away from the median of its past by a share of it."""

    STATE: ClassVar[tuple[str, ...]] = ("past", "mean")

    def __init__(self, key: str, sign: float, share: float) -> None:
        self.key, self.sign, self.share = key, sign, share
        self.past = Baseline(64, delay=16)
        self.mean: float | None = None

    def add(self, row: Row) -> bool:
        """Take the row; True while the mean is away. False where nothing is known."""
        value = row.get(self.key)
        if value is not None:
            self.mean = value if self.mean is None else self.mean + 0.2 * (value - self.mean)
        if self.mean is None or not len(self.past) or self.past.median == 0.0:
            moved = False
        else:
            limit = self.past.median * (1.0 + self.share) ** self.sign
            moved = self.sign * (self.mean - limit) > 0
        if value is not None and not moved:
            self.past.add(value)
        return moved


class Shift(Condition):
    """Breached where the cumulative sum of the standardised values is beyond its limit and the shift is large enough.

    Values are standardised by the median and the wander of the run's own recent past, widened for autocorrelation,
    and cut at four standard deviations: one wild value is no shift. The past stops to be updated while the sum is
    more than halfway to its limit.

    Args:
        direction: "up" or "down".
        limit: of the sum, the default of `Cusum` where None.
        share: smallest shift that matters, as a share of the baseline's size.
        log: whether to judge the logarithm, for values that vary in proportion (times, rates). Values of 0 or less are
            then no observation.
        minimum: values that make up the first baseline.
        window: values that the baseline remembers.
        agree: another series whose level must have shifted the same way, by half the share.
        accept_after: so many breaches in a row are a new level, which becomes the baseline. The breach is not clear
            before the level is back from there. None: never.

    A share of 0 means nothing: while the median is 0, a rule with a `share` is not judged.
    """

    STATE: ClassVar[tuple[str, ...]] = (
        *Condition.STATE, "baseline", "cusum", "last", "product", "square", "recent", "beyond", "agree", "former",
    )  # fmt: skip

    def __init__(
        self,
        keys: tuple[str, ...],
        *,
        direction: Literal["up", "down"] = "up",
        limit: float | None = None,
        share: float = 0.0,
        log: bool = False,
        minimum: int = 24,
        window: int = 64,
        agree: str | None = None,
        accept_after: int | None = None,
        zero_is_missing: bool = False,
    ) -> None:
        super().__init__(keys, zero_is_missing=zero_is_missing)
        self.sign, self.share, self.log = sign_of(direction), share, log
        self.minimum, self.accept_after = minimum, accept_after
        self.baseline = Baseline(window, delay=4)
        self.cusum = Cusum() if limit is None else Cusum(limit=limit)
        self.last: float | None = None
        self.product = self.square = 0.0
        self.recent: float | None = None
        self.beyond: list[float] = []
        self.former: float | None = None
        """Where a breach is over that lasted until its level was accepted."""
        self.agree = None if agree is None else ShiftedLevel(agree, self.sign, share / 2)

    def judge(self, step: int, row: Row) -> Finding | None:
        """Standardise the value and add it to the sum."""
        agreed = self.agree is None or self.agree.add(row)
        value = self.read(row)
        if value is None or (self.log and value <= 0.0):
            return None
        level = math.log(value) if self.log else value
        is_empty = not self.log and self.share > 0.0 and len(self.baseline) > 0 and self.baseline.median == 0.0
        if len(self.baseline) < self.minimum or is_empty:
            self.baseline.add(level)
            self._correlate(level)
            return Finding(False, True, value, key=self.key, judged=False)
        middle, wander = self.baseline.median, self.baseline.wander
        scale = max(wander * inflation(self.autocorrelation), 1e-3 * abs(middle), 1e-12)
        standard = self.sign * (level - middle) / scale
        beyond = self.cusum.add(min(max(standard, -4.0), 4.0))
        weight = 2.0 / (RECENT_ROWS + 1.0)
        self.recent = level if self.recent is None else self.recent + weight * (level - self.recent)
        shift = self.sign * (self.recent - middle)
        smallest = math.log1p(self.share) if self.log else self.share * abs(middle)
        breached = beyond and shift > smallest and agreed
        self._learn(level, breached, standard, middle + self.sign * smallest / 2)
        if self.former is not None and self.sign * (self.recent - self.former) <= 0:
            self.former = None
        ends = (self.recent, middle + self.sign * smallest, middle)
        recent, limit, normal = (math.exp(end) for end in ends) if self.log else ends
        clear = not beyond and self.former is None
        found = Finding(breached, clear, recent, limit, False, {"normal": normal}, self.key)
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

    def _learn(self, level: float, breached: bool, standard: float, back: float) -> None:
        if breached:
            self.baseline.freeze()
            if self.accept_after is not None:
                self.beyond.append(level)
                if len(self.beyond) >= self.accept_after:
                    self.former = self.former if self.former is not None else back
                    self.baseline.restart(self.beyond)
                    self.cusum.load_state(Cusum().state())
                    self.beyond = []
            return
        self.beyond = []
        suspicious = self.cusum.total > self.cusum.limit / 2
        if not suspicious:
            self.baseline.add(level)
            self._correlate(level)


class Slowdown(Shift):
    """Breached where a rate has shifted down (see `Shift`) for `seconds` of wall time and for `rows` rows.

    It must have been at its usual for as long before, in wall time.

    Steps are no measure of how long something lasts: in a run with ten steps a second, another job on the machine spans
    thousands of them and is gone before anyone could have looked. The wall time is that of the rows: the time of a step
    times the steps since the row before. Where rows do not tell it, their number alone counts.

    Args:
        keys, share, agree, minimum, window, accept_after: as for `Shift`, on the logarithm of the rate. A new level is
            accepted only after it was reported.
        seconds, rows: how long the rate must have been low.
        seconds_key: where the time of a step is found.
    """

    STATE: ClassVar[tuple[str, ...]] = (*Shift.STATE, "slow", "usual", "count", "before")

    def __init__(
        self,
        keys: tuple[str, ...],
        *,
        share: float = 1.0,
        agree: str | None = None,
        minimum: int = 24,
        window: int = 64,
        accept_after: int | None = None,
        seconds: float = 600.0,
        rows: int = 15,
        seconds_key: str = "rldk/throughput/step_seconds",
    ) -> None:
        super().__init__(
            keys,
            direction="down",
            log=True,
            share=share,
            agree=agree,
            minimum=minimum,
            window=window,
            accept_after=accept_after,
        )
        self.seconds, self.rows, self.seconds_key = seconds, rows, seconds_key
        self.slow = self.usual = 0.0
        self.count = 0
        self.before: int | None = None

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

    def _learn(self, level: float, breached: bool, standard: float, back: float) -> None:
        if breached and 0.0 < self.slow < self.seconds:
            self.baseline.freeze()
        else:
            super()._learn(level, breached, standard, back)


class Growth(Condition):
    """Breached where nearly every block of observations is above the one before it, and the rise is large.

    Args:
        block: observations whose minimum makes up one block; the minimum, because a cache that fills and empties is
            no leak.
        blocks: how many blocks in a row must have risen.
        share: the rise over those blocks, as a share of the first.
        floor: the rise over those blocks in the unit of the value.
    """

    STATE: ClassVar[tuple[str, ...]] = (*Condition.STATE, "count", "lowest", "lows")

    def __init__(
        self, keys: tuple[str, ...], *, block: int = 10, blocks: int = 6, share: float = 0.1, floor: float = 0.0
    ) -> None:
        super().__init__(keys)
        self.block, self.share, self.floor = block, share, floor
        self.count = 0
        self.lowest: float | None = None
        self.lows: deque[float] = deque(maxlen=blocks + 1)

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
        if len(self.lows) < (self.lows.maxlen or 0):
            return Finding(False, True, value, key=self.key, judged=False)
        lows = list(self.lows)
        rising = all(later > earlier for earlier, later in pairwise(lows))
        rise = lows[-1] - lows[0]
        limit = max(self.floor, self.share * abs(lows[0]))
        if limit == 0.0:  # a share of nothing
            return Finding(False, True, value, key=self.key, judged=False)
        evidence = {"rise": rise, "rows": float(self.block * (len(lows) - 1))}
        return Finding(rising and rise > limit, not rising, lows[-1], lows[0] + limit, False, evidence, self.key)
