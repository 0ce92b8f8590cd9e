"""A lasting shift of a series's level that no single value would show."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from rldk_tracking.health.conditions.base import Condition, Finding, Row
from rldk_tracking.health.conditions.level import sign_of
from rldk_tracking.health.detectors.baseline import Baseline
from rldk_tracking.health.detectors.cusum import Cusum, inflation
from rldk_tracking.health.detectors.stateful import Stateful


class Moved(Stateful):
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
        if self.mean is None or not len(self.past):
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
        accept_after: so many breaches in a row are a new level, which becomes the baseline. None: never.
    """

    STATE: ClassVar[tuple[str, ...]] = (
        *Condition.STATE, "baseline", "cusum", "last", "product", "square", "recent", "beyond", "agree",
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
        self.agree = None if agree is None else Moved(agree, self.sign, share / 2)

    def judge(self, step: int, row: Row) -> Finding | None:
        """Standardise the value and add it to the sum."""
        agreed = self.agree is None or self.agree.add(row)
        value = self.read(row)
        if value is None or (self.log and value <= 0.0):
            return None
        level = math.log(value) if self.log else value
        if len(self.baseline) < self.minimum:
            self.baseline.add(level)
            self._correlate(level)
            return Finding(False, True, value, key=self.key)
        middle, wander = self.baseline.median, self.baseline.wander
        scale = max(wander * inflation(self.autocorrelation), 1e-3 * abs(middle), 1e-12)
        standard = self.sign * (level - middle) / scale
        beyond = self.cusum.add(min(max(standard, -4.0), 4.0))
        self.recent = level if self.recent is None else self.recent + 0.2 * (level - self.recent)
        shift = self.sign * (self.recent - middle)
        smallest = math.log1p(self.share) if self.log else self.share * abs(middle)
        breached = beyond and shift > smallest and agreed
        self._learn(level, breached, standard)
        normal = math.exp(middle) if self.log else middle
        limit = math.exp(middle + self.sign * smallest) if self.log else middle + self.sign * smallest
        return Finding(breached, not beyond, value, limit, False, {"normal": normal}, self.key)

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

    def _learn(self, level: float, breached: bool, standard: float) -> None:
        if breached:
            self.baseline.freeze()
            if self.accept_after is not None:
                self.beyond.append(level)
                if len(self.beyond) >= self.accept_after:
                    self.baseline.restart(self.beyond)
                    self.cusum.load_state(Cusum().state())
                    self.beyond = []
            return
        self.beyond = []
        suspicious = self.cusum.total > self.cusum.limit / 2
        if not suspicious:
            self.baseline.add(level)
            self._correlate(level)
