"""Conditions that hold a value to what is normal for this run: a jump, a lasting fall."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from rldk_tracking.health.conditions.base import (
    AtLeastOne,
    Condition,
    Count,
    Direction,
    Finding,
    NonNegative,
    Range,
    Row,
    Span,
    ZeroIsMissing,
    condition,
    sign_of,
    smoothed,
)
from rldk_tracking.health.detectors import Stateful, remembered
from rldk_tracking.health.detectors.baseline import Baseline

SETTLED_ROWS = 8
"""Values before the best level is kept; the median of fewer is now here, now there."""
Window = Annotated[int, Range(2), "values that the baseline remembers"]
AcceptAfter = Annotated[
    Count | None,
    "so many breaches in a row are a new level, which becomes the baseline. The breach is not clear before the value "
    "is back from there. None: never",
]


@dataclass(eq=False)
class NewLevel(Stateful):
    """When a breach has lasted so long that its level is the normal one.

    Attributes:
        accept_after: breaches in a row; None for never.
        former: where the breach is over that lasted until its level was accepted.
    """

    accept_after: int | None
    beyond: list[float] = remembered(list)
    former: float | None = remembered()

    def add(self, value: float, back: float, baseline: Baseline) -> bool:
        """Take a breach, and let the baseline begin anew where it is one too many; True then.

        Args:
            value: what was breached.
            back: where the breach would be over.
            baseline: of the values.
        """
        baseline.freeze()
        if self.accept_after is None:
            return False
        self.beyond.append(value)
        if len(self.beyond) < self.accept_after:
            return False
        self.former = back if self.former is None else self.former
        baseline.restart(self.beyond)
        self.beyond = []
        return True

    def is_back(self, value: float, sign: float) -> bool:
        """Whether the value has left the level that was accepted."""
        if self.former is not None and sign * (value - self.former) <= 0:
            self.former = None
        return self.former is None


@condition("jump")
class Jump(Condition):
    """Breached where the value leaves the run's own median by more than is normal *and* by more than matters.

    The limit is median ± the largest of `z` robust standard deviations, `floor`, and (`ratio` - 1) times the median.
    A baseline of values that hardly vary has a tiny spread; the other two keep a harmless wobble from counting. A
    multiple of 0 means nothing: with `ratio` or `product`, zeros do not count for the median.
    """

    direction: Direction = "up"
    threshold: Annotated[
        float | None, "an absolute limit, judged from the first value on, in place of all that follows"
    ] = None
    z: Annotated[NonNegative, "robust standard deviations (median, MAD)"] = 8.0
    floor: Annotated[NonNegative, "smallest change that matters, in the unit of the value"] = 0.0
    ratio: Annotated[
        AtLeastOne | None,
        'for "up", the smallest multiple of the median that matters; for "down" the median over the value',
    ] = None
    product: Annotated[
        NonNegative | None,
        "what the value times its multiple of the median must exceed: the larger it is in absolute terms, the smaller "
        "the multiple that matters",
    ] = None
    critical_ratio: Annotated[AtLeastOne | None, "multiple of the median at which the breach is critical"] = None
    minimum: Annotated[Count, "values before anything is judged"] = 16
    window: Window = 48
    accept_after: AcceptAfter = None
    zero_is_missing: ZeroIsMissing = False
    baseline: Baseline = remembered()
    level: NewLevel = remembered()

    def __post_init__(self) -> None:
        self.sign = sign_of(self.direction)
        self.is_relative = self.ratio is not None or self.product is not None
        self.baseline, self.level = Baseline(self.window), NewLevel(self.accept_after)

    def judge(self, step: int, row: Row) -> Finding | None:
        """Hold the value to the baseline, then let it into the baseline if it is normal."""
        value = self.read(row)
        if value is None:
            return None
        baseline = self.baseline
        if self.threshold is not None:
            over = self.sign * (value - self.threshold) > 0
            if not over:
                self._learn(value)
            evidence = {"normal": baseline.median} if len(baseline) else {}
            return Finding(over, not over, value, self.threshold, False, evidence, self.key)
        if len(baseline) < self.minimum or (self.is_relative and baseline.median == 0.0):
            self._learn(value)
            return self.learns(value)
        middle = baseline.median
        margin = self._margin(middle)
        distance = self.sign * (value - middle)
        breached = distance > margin
        if breached:
            self.level.add(value, middle + self.sign * margin / 2, baseline)
        else:
            self._learn(value)
            self.level.beyond = []
        is_back = self.level.is_back(value, self.sign)
        critical = breached and self.critical_ratio is not None and abs(value) > self.critical_ratio * abs(middle)
        evidence = {"normal": middle, "spread": baseline.spread}
        clear = distance <= margin / 2 and is_back
        return Finding(breached, clear, value, middle + self.sign * margin, critical, evidence, self.key)

    def _margin(self, middle: float) -> float:
        margin = max(self.z * self.baseline.spread, self.floor)
        if self.ratio is not None:
            share = self.ratio - 1.0 if self.sign > 0 else 1.0 - 1.0 / self.ratio
            margin = max(margin, share * abs(middle))
        if self.product is not None:
            margin = max(margin, (self.product * abs(middle)) ** 0.5 - middle)
        return margin

    def _learn(self, value: float) -> None:
        if value != 0.0 or not self.is_relative:
            self.baseline.add(value)


@condition("drop")
class Drop(Condition):
    """Breached where the smoothed value is below the best level of the run by more than it wanders, and by much.

    The level is the median of the last `window` normal values, its wander the largest deviation from it that a window
    had: unlike the difference of neighbours it contains slow swings. The best level stays when the level sinks, so a
    slow fall counts.
    """

    z: Annotated[NonNegative, "how many standard deviations of single values"] = 2.5
    share: Annotated[NonNegative, "of the best level's height over the origin that must be lost"] = 0.35
    whole: Annotated[
        NonNegative,
        "of the same height; a smoothed value that lost this much is down whatever the wander: it is where single "
        "values only ever were at their worst",
    ] = 0.85
    critical_share: Annotated[NonNegative | None, "of the same height, where it is critical"] = None
    relative: Annotated[NonNegative, "of the best level's size that must be lost"] = 0.1
    floor: Annotated[NonNegative, "smallest fall that matters, in the unit of the value"] = 0.0
    span: Span = 5.0
    origin: Annotated[
        float | None,
        "the value that stands for nothing achieved. By default the lowest value seen, or 0 where none was below",
    ] = None
    minimum: Annotated[
        Count, "normal values before anything is judged. The wander of few values is taken for larger than it looks"
    ] = 4
    window: Annotated[Window, "values of a level"] = 32
    baseline: Baseline = remembered()
    mean: float | None = remembered()
    lowest: float | None = remembered()
    best: float | None = remembered()
    wander: float = remembered(0.0)

    def __post_init__(self) -> None:
        self.baseline = Baseline(self.window)

    def judge(self, step: int, row: Row) -> Finding | None:
        """Hold the smoothed value to the best level."""
        value = self.read(row)
        if value is None:
            return None
        baseline = self.baseline
        self.mean = smoothed(self.mean, value, 2.0 / (self.span + 1.0))
        self.lowest = value if self.lowest is None else min(self.lowest, value)
        if len(baseline) >= self.minimum:
            level, settled = baseline.median, len(baseline) >= SETTLED_ROWS
            if self.best is None or level > self.best or not settled:
                self.best = level
            if self.mean >= level - self.wander or not settled:
                self.wander = max(self.wander, baseline.wander)
        if self.best is None:
            baseline.add(value)
            return self.learns(value)
        origin = self.origin
        if origin is None:
            origin = self.lowest if self.best <= 0.0 else min(self.lowest, 0.0)
        height = self.best - origin
        wander = self.wander * (1.0 + 6.0 / len(baseline))
        limit = min(max(self.z * wander, self.share * height), self.whole * height)
        limit = max(limit, self.relative * abs(self.best), self.floor)
        fall = self.best - self.mean
        breached = fall > limit
        if breached:
            baseline.freeze()
        else:
            baseline.add(value)
        critical = breached and self.critical_share is not None and fall > self.critical_share * height
        evidence = {"best": self.best, "wander": self.wander}
        found = Finding(breached, fall <= limit / 2, self.mean, self.best - limit, critical, evidence, self.key)
        found.averaged_rows, found.now = self.span, value
        return found
