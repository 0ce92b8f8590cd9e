"""A lasting fall of a value that ought to rise."""

from __future__ import annotations

from typing import ClassVar

from rldk_tracking.health.conditions.base import Condition, Finding, Row

MAD_OF_DIFFERENCES = 1.2533 / 2**0.5
"""Mean absolute difference of two independent normal values, times this, is the standard deviation of one."""


class Drop(Condition):
    """Breached where the smoothed value has fallen from its best by more than noise and by much of what it had.

    The smoothed value is an exponential mean over `span` observations, the best its highest so far, the noise the
    mean absolute difference of neighbours before the fall (robust against slow trends). The share is taken of the
    range that the run has covered: best minus the lowest smoothed value before the best, or minus `origin`.

    Args:
        z: noise units, in standard deviations of the smoothed value.
        share: of the best's height over the origin that must be lost.
        critical_share: where it is critical.
        floor: smallest fall that matters, in the unit of the value.
        span: observations of the exponential mean.
        origin: the value that stands for nothing achieved; the smallest value seen by default.
        minimum: observations before anything is judged.
    """

    STATE: ClassVar[tuple[str, ...]] = (*Condition.STATE, "count", "mean", "best", "lowest", "last", "noise")

    def __init__(
        self,
        keys: tuple[str, ...],
        *,
        z: float = 5.0,
        share: float = 0.4,
        critical_share: float | None = None,
        floor: float = 0.0,
        span: float = 5.0,
        origin: float | None = None,
        minimum: int = 10,
    ) -> None:
        super().__init__(keys)
        self.z, self.share, self.critical_share, self.floor = z, share, critical_share, floor
        self.weight, self.origin, self.minimum = 2.0 / (span + 1.0), origin, minimum
        self.count = 0
        self.mean = self.best = self.lowest = self.last = self.noise = 0.0

    def judge(self, step: int, row: Row) -> Finding | None:
        """Update the smoothed value, its best and the noise; hold the fall to the limits."""
        value = self.read(row)
        if value is None:
            return None
        self.count += 1
        if self.count == 1:
            self.mean = self.best = self.lowest = self.last = value
            return Finding(False, True, value, key=self.key)
        self.mean += self.weight * (value - self.mean)
        difference = abs(value - self.last) * MAD_OF_DIFFERENCES
        self.last = value
        fall = self.best - self.mean
        sigma = self.noise * (self.weight / (2.0 - self.weight)) ** 0.5
        if fall <= 2.0 * self.z * sigma or self.count <= self.minimum:
            self.noise += (difference - self.noise) / min(self.count - 1, 30)
        self.lowest = min(self.lowest, self.mean)
        if self.count >= self.minimum // 2:
            self.best = max(self.best, self.mean) if self.count > self.minimum // 2 else self.mean
        if self.count <= self.minimum:
            return Finding(False, True, value, key=self.key)
        height = self.best - (self.lowest if self.origin is None else self.origin)
        limit = max(self.z * sigma, self.floor, self.share * height)
        breached = self.best - self.mean > limit
        critical = breached and self.critical_share is not None and fall > self.critical_share * height
        evidence = {"best": self.best, "now": self.mean, "noise": self.noise}
        clear = self.best - self.mean <= limit / 2
        return Finding(breached, clear, self.mean, self.best - limit, critical, evidence, self.key)
