"""A lasting fall of a value that ought to rise."""

from __future__ import annotations

from typing import ClassVar

from rldk_tracking.health.conditions.base import Condition, Finding, Row
from rldk_tracking.health.detectors.baseline import Baseline

SETTLED = 8
"""Values before the best level is kept; the median of fewer is now here, now there."""


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
        self.weight, self.origin, self.minimum = 2.0 / (span + 1.0), origin, minimum
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
            if self.best is None or level > self.best or len(self.baseline) < SETTLED:
                self.best = level
            if self.mean >= level - self.wander or len(self.baseline) < SETTLED:
                self.wander = max(self.wander, self.baseline.wander)
        if self.best is None:
            self.baseline.add(value)
            return Finding(False, True, value, key=self.key)
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
        evidence = {"best": self.best, "now": self.mean, "wander": self.wander}
        return Finding(breached, fall <= limit / 2, self.mean, self.best - limit, critical, evidence, self.key)
