"""Conditions that hold a value to what is normal for this run: jump, lasting fall, answer to the learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from rldk_tracking.health.conditions.base import Condition, Finding, Row, sign_of
from rldk_tracking.health.detectors import Stateful
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
            if self.best is None or level > self.best or len(self.baseline) < SETTLED_ROWS:
                self.best = level
            if self.mean >= level - self.wander or len(self.baseline) < SETTLED_ROWS:
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


class RateResponse(Condition):
    """Breached where loss, KL or gradient norm leave their baseline soon after the learning rate was raised.

    Args:
        keys: the learning rate.
        factor: a rise by this much from one observation to the next is a change of the schedule.
        settled: a rise counts from this share of the highest rate so far; below it the schedule is warming up.
        answers: the series that may answer.
        z, ratio: how far an answer leaves its baseline: robust standard deviations, and multiple of the median's size.
        patience: observations after the change in which an answer is put down to it. What answered stays its
            consequence until it is back.
        minimum: observations of an answer before it is judged.
    """

    STATE: ClassVar[tuple[str, ...]] = (*Condition.STATE, "last", "highest", "left", "rise", "baselines", "hit")

    def __init__(
        self,
        keys: tuple[str, ...],
        *,
        factor: float = 3.0,
        settled: float = 0.3,
        answers: tuple[str, ...] = ("rldk/train/loss", "rldk/kl/ref_k3", "rldk/kl/ref_k1", "rldk/grad/norm"),
        z: float = 6.0,
        ratio: float = 2.0,
        patience: int = 20,
        minimum: int = 8,
    ) -> None:
        super().__init__(keys)
        self.factor, self.settled, self.z, self.ratio = factor, settled, z, ratio
        self.patience, self.minimum = patience, minimum
        self.last: float | None = None
        self.highest = 0.0
        self.left = 0
        self.rise = 1.0
        self.hit = False
        self.baselines = Baselines(tuple(answers))

    def judge(self, step: int, row: Row) -> Finding | None:
        """Note a change of the rate; while its patience lasts, look for an answer."""
        value = self.read(row)
        if value is None:
            return None
        last = self.last
        if last and value >= self.factor * last and last >= self.settled * self.highest:
            self.left, self.rise, self.hit = self.patience, value / last, False
            self.baselines.freeze()
        self.last, self.highest = value, max(self.highest, value)
        answer = None
        if self.left > 0 or self.hit:
            answer = self.baselines.beyond(row, self.z, self.ratio, self.minimum)
            self.left = max(0, self.left - 1)
            self.hit = answer is not None or (self.hit and self.left > 0)
        else:
            self.baselines.add(row)
        evidence: dict[str, float | str] = {"rise": self.rise}
        if answer is not None:
            evidence["answer"] = answer
            evidence[answer] = row[answer]
        limit = None if last is None else last * self.factor
        return Finding(answer is not None, not self.hit, value, limit, False, evidence, self.key)


class Baselines(Stateful):
    """One `Baseline` for each of several series."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self.of = {key: Baseline(window=32) for key in keys}

    def add(self, row: Row) -> None:
        """Take the row's values for normal."""
        for key, baseline in self.of.items():
            if key in row:
                baseline.add(row[key])

    def freeze(self) -> None:
        """What has not counted yet never will."""
        for baseline in self.of.values():
            baseline.freeze()

    def beyond(self, row: Row, z: float, ratio: float, minimum: int) -> str | None:
        """The first series whose value is above its median by z spreads and by (ratio - 1) times the median's size."""
        for key, baseline in self.of.items():
            if key in row and len(baseline) >= minimum:
                margin = max(z * baseline.spread, (ratio - 1.0) * abs(baseline.median))
                if row[key] - baseline.median > margin:
                    return key
        return None

    def state(self) -> dict[str, Any]:
        """Plain data."""
        return {key: baseline.state() for key, baseline in self.of.items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        for key, baseline in self.of.items():
            baseline.load_state(state.get(key, {}))
