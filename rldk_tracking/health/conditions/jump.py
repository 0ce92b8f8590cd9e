"""A value far outside what is normal for this run."""

from __future__ import annotations

from typing import ClassVar, Literal

from rldk_tracking.health.conditions.base import Condition, Finding, Row
from rldk_tracking.health.conditions.level import sign_of
from rldk_tracking.health.detectors.baseline import Baseline


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
        accept_after: so many breaches in a row are a new level, which becomes the baseline. None: never.
    """

    STATE: ClassVar[tuple[str, ...]] = (*Condition.STATE, "baseline", "beyond")

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
        self.baseline = Baseline(window)
        self.beyond: list[float] = []

    def judge(self, step: int, row: Row) -> Finding | None:
        """Hold the value to the baseline, then let it into the baseline if it is normal."""
        value = self.read(row)
        if value is None:
            return None
        if self.threshold is not None:
            over = self.sign * (value - self.threshold) > 0
            return Finding(over, not over, value, self.threshold, key=self.key)
        if len(self.baseline) < self.minimum:
            self.baseline.add(value)
            return Finding(False, True, value, key=self.key)
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
                    self.baseline.restart(self.beyond)
                    self.beyond = []
        else:
            self.baseline.add(value)
            self.beyond = []
        critical = breached and self.critical_ratio is not None and abs(value) > self.critical_ratio * abs(middle)
        limit = middle + self.sign * margin
        evidence = {"normal": middle, "spread": self.baseline.spread}
        return Finding(breached, distance <= margin / 2, value, limit, critical, evidence, self.key)
