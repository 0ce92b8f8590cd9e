"""Conditions that hold a value to what is normal for this run: a jump, a lasting fall."""

from __future__ import annotations

from typing import ClassVar, Literal

from rldk_tracking.health.conditions.base import Condition, Finding, Row, sign_of
from rldk_tracking.health.detectors.baseline import Baseline

SETTLED_ROWS = 8
"""Values before the best level is kept; the median of fewer is now here, now there."""


class Jump(Condition):
    """Breached where the value leaves the run's own median by more than is normal *and* by more than matters.

    The limit is median ± the largest of `z` robust standard deviations, `floor`, and (`ratio` - 1) times the median.
    A baseline of values that hardly vary has a tiny spread; the other two keep a harmless wobble from counting.

    Args:
        direction: "up" or "down".
        threshold: an absolute limit that the user gave, judged from the first value on, in place of all that follows.
        z: robust standard deviations (median, MAD).
        floor: smallest change that matters, in the unit of the value.
        product: what the value times its multiple of the median must exceed: the larger it is in absolute terms, the
            smaller the multiple that matters.
        ratio: for "up", the smallest multiple of the median that matters; for "down" the median over the value.
        critical_ratio: multiple of the median at which the breach is critical.
        minimum: values before anything is judged.
        window: values that the baseline remembers.
        accept_after: so many breaches in a row are a new level, which becomes the baseline. The breach is not clear
            before the value is back from there. None: never.

    A multiple of 0 means nothing: with `ratio` or `product`, zeros do not count for the median.
    """

    STATE: ClassVar[tuple[str, ...]] = (*Condition.STATE, "baseline", "beyond", "former")

    def __init__(
        self,
        keys: tuple[str, ...],
        *,
        direction: Literal["up", "down"] = "up",
        threshold: float | None = None,
        z: float = 8.0,
        floor: float = 0.0,
        ratio: float | None = None,
        product: float | None = None,
        critical_ratio: float | None = None,
        minimum: int = 16,
        window: int = 48,
        accept_after: int | None = None,
        zero_is_missing: bool = False,
    ) -> None:
        super().__init__(keys, zero_is_missing=zero_is_missing)
        self.sign, self.threshold = sign_of(direction), threshold
        self.z, self.floor, self.ratio, self.critical_ratio = z, floor, ratio, critical_ratio
        self.product = product
        self.minimum, self.accept_after = minimum, accept_after
        self.is_relative = ratio is not None or product is not None
        self.baseline = Baseline(window)
        self.beyond: list[float] = []
        self.former: float | None = None
        """Where a breach is over that lasted until its level was accepted."""

    def judge(self, step: int, row: Row) -> Finding | None:
        """Hold the value to the baseline, then let it into the baseline if it is normal."""
        value = self.read(row)
        if value is None:
            return None
        if self.threshold is not None:
            over = self.sign * (value - self.threshold) > 0
            if not over:
                self._learn(value)
            evidence = {"normal": self.baseline.median} if len(self.baseline) else {}
            return Finding(over, not over, value, self.threshold, False, evidence, self.key)
        if len(self.baseline) < self.minimum or (self.is_relative and self.baseline.median == 0.0):
            self._learn(value)
            return Finding(False, True, value, key=self.key, judged=False)
        middle = self.baseline.median
        margin = max(self.z * self.baseline.spread, self.floor)
        if self.ratio is not None:
            share = self.ratio - 1.0 if self.sign > 0 else 1.0 - 1.0 / self.ratio
            margin = max(margin, share * abs(middle))
        if self.product is not None:
            margin = max(margin, (self.product * abs(middle)) ** 0.5 - middle)
        distance = self.sign * (value - middle)
        breached = distance > margin
        if breached:
            self.baseline.freeze()
            if self.accept_after is not None:
                self.beyond.append(value)
                if len(self.beyond) >= self.accept_after:
                    self.former = self.former if self.former is not None else middle + self.sign * margin / 2
                    self.baseline.restart(self.beyond)
                    self.beyond = []
        else:
            self._learn(value)
            self.beyond = []
        if self.former is not None and self.sign * (value - self.former) <= 0:
            self.former = None
        critical = breached and self.critical_ratio is not None and abs(value) > self.critical_ratio * abs(middle)
        limit = middle + self.sign * margin
        evidence = {"normal": middle, "spread": self.baseline.spread}
        clear = distance <= margin / 2 and self.former is None
        return Finding(breached, clear, value, limit, critical, evidence, self.key)

    def _learn(self, value: float) -> None:
        if value != 0.0 or not self.is_relative:
            self.baseline.add(value)


class Drop(Condition):
    """Breached where the smoothed value is below the best level of the run by more than it wanders, and by much.

    The level is the median of the last `window` normal values, its wander the largest deviation from it that a window
    had: unlike the difference of neighbours it contains slow swings. The best level stays when the level sinks, so a
    slow fall counts.

    Args:
        z: how many standard deviations of single values.
        share: of the best level's height over the origin that must be lost.
        whole: of the same height; a smoothed value that lost this much is down whatever the wander: it is where single
            values only ever were at their worst.
        critical_share: where it is critical.
        relative: of the best level's size that must be lost.
        floor: smallest fall that matters, in the unit of the value.
        span: observations of the exponential mean that is held to the best level.
        origin: the value that stands for nothing achieved. By default the lowest value seen, or 0 where none was
            below.
        minimum: normal values before anything is judged. The wander of few values is taken for larger than it looks.
        window: values of a level.
    """

    STATE: ClassVar[tuple[str, ...]] = (*Condition.STATE, "baseline", "mean", "lowest", "best", "wander")

    def __init__(
        self,
        keys: tuple[str, ...],
        *,
        z: float = 2.5,
        share: float = 0.35,
        whole: float = 0.85,
        critical_share: float | None = None,
        relative: float = 0.1,
        floor: float = 0.0,
        span: float = 5.0,
        origin: float | None = None,
        minimum: int = 4,
        window: int = 32,
    ) -> None:
        super().__init__(keys)
        self.z, self.share, self.critical_share, self.relative, self.floor = z, share, critical_share, relative, floor
        self.whole = whole
        self.span, self.weight, self.origin, self.minimum = span, 2.0 / (span + 1.0), origin, minimum
        self.baseline = Baseline(window, delay=3)
        self.mean: float | None = None
        self.lowest: float | None = None
        self.best: float | None = None
        self.wander = 0.0

    def judge(self, step: int, row: Row) -> Finding | None:
        """Hold the smoothed value to the best level."""
        value = self.read(row)
        if value is None:
            return None
        self.mean = value if self.mean is None else self.mean + self.weight * (value - self.mean)
        self.lowest = value if self.lowest is None else min(self.lowest, value)
        if len(self.baseline) >= self.minimum:
            level = self.baseline.median
            if self.best is None or level > self.best or len(self.baseline) < SETTLED_ROWS:
                self.best = level
            if self.mean >= level - self.wander or len(self.baseline) < SETTLED_ROWS:
                self.wander = max(self.wander, self.baseline.wander)
        if self.best is None:
            self.baseline.add(value)
            return Finding(False, True, value, key=self.key, judged=False)
        origin = min(self.lowest, 0.0) if self.origin is None else self.origin
        if self.best <= 0.0 and self.origin is None:
            origin = self.lowest
        height = self.best - origin
        wander = self.wander * (1.0 + 6.0 / len(self.baseline))
        limit = min(max(self.z * wander, self.share * height), self.whole * height)
        limit = max(limit, self.relative * abs(self.best), self.floor)
        fall = self.best - self.mean
        breached = fall > limit
        if breached:
            self.baseline.freeze()
        else:
            self.baseline.add(value)
        critical = breached and self.critical_share is not None and fall > self.critical_share * height
        evidence = {"best": self.best, "wander": self.wander}
        found = Finding(breached, fall <= limit / 2, self.mean, self.best - limit, critical, evidence, self.key)
        found.averaged_rows, found.now = self.span, value
        return found
