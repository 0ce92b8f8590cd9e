"""Conditions that hold a value to what is normal for this run: a jump, a lasting fall, what answers a learning rate."""

from __future__ import annotations

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
from rldk_tracking.health.detectors import remembered
from rldk_tracking.health.detectors.baseline import Baseline, NewLevel

SETTLED_ROWS = 8
"""Values before the best level is kept; the median of fewer is now here, now there."""
Window = Annotated[int, Range(2), "values that the baseline remembers"]
AcceptAfter = Annotated[
    Count | None,
    "so many breaches in a row are a new level, which becomes the baseline. The breach is not clear before the value "
    "is back from there. None: never",
]


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
    early_ratio: Annotated[
        AtLeastOne | None,
        'for "up", the multiple of the median of the values so far that matters while they are fewer than `minimum`; '
        "None: nothing is judged then",
    ] = None
    minimum: Annotated[Count, "values that make up a baseline"] = 16
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
        is_early = len(baseline) < self.minimum
        knows_nothing = len(baseline) == 0 or (is_early and self.early_ratio is None)
        if knows_nothing or (self.is_relative and baseline.median == 0.0):
            self._learn(value)
            return self.learns(value)
        middle = baseline.median
        distance = self.sign * (value - middle)
        margin = self._least_margin(middle)
        if distance > margin / 2:  # near enough for the spread to decide
            margin = max(self.z * baseline.spread, margin)
        breached = distance > margin
        if breached:
            self.level.add(value, middle + self.sign * margin / 2, baseline)
        else:
            self._learn(value)
            if self.level.beyond:
                self.level.beyond = []
        is_back = self.level.is_back(value, self.sign)
        critical = breached and self.critical_ratio is not None and abs(value) > self.critical_ratio * abs(middle)
        evidence = {"normal": middle, "spread": baseline.spread} if breached else {"normal": middle}
        clear = distance <= margin / 2 and is_back
        limit = middle + self.sign * margin
        return Finding(breached, clear, value, limit, critical, evidence, self.key, judged=not is_early)

    def _least_margin(self, middle: float) -> float:
        """The margin where the values have no spread."""
        margin = self.floor
        if self.early_ratio is not None and len(self.baseline) < self.minimum:
            margin = max(margin, (self.early_ratio - 1.0) * abs(middle))
        if self.ratio is not None:
            share = self.ratio - 1.0 if self.sign > 0 else 1.0 - 1.0 / self.ratio
            margin = max(margin, share * abs(middle))
        if self.product is not None:
            margin = max(margin, (self.product * abs(middle)) ** 0.5 - middle)
        return margin

    def _learn(self, value: float) -> None:
        if value != 0.0 or not self.is_relative:
            at_once = self.early_ratio is not None and len(self.baseline) < self.minimum
            self.baseline.add(value, at_once)


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
            is_usual = self.mean >= level - self.wander or not settled
            if is_usual and not baseline.wanders_within(self.wander):
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


ANSWERS = {
    "rldk/train/loss": "the loss",
    "rldk/kl/ref_k3": "the KL to the reference",
    "rldk/kl/ref_k1": "the KL to the reference",
    "rldk/grad/norm": "the gradient norm",
}
"""What may answer a raised learning rate, in words."""


@condition("rate_response")
class RateResponse(Condition):
    """Breached where loss, KL or gradient norm leave their baseline soon after the learning rate was raised."""

    factor: Annotated[
        AtLeastOne, "a rise by this much from one observation to the next is a change of the schedule"
    ] = 3.0
    settled: Annotated[
        NonNegative, "a rise counts from this share of the highest rate so far; below it the schedule is warming up"
    ] = 0.3
    answers: Annotated[tuple[str, ...], "the series that may answer"] = tuple(ANSWERS)
    z: Annotated[NonNegative, "robust standard deviations by which an answer leaves its baseline"] = 6.0
    ratio: Annotated[AtLeastOne, "and the multiple of the median's size"] = 2.0
    patience: Annotated[
        Count,
        "observations after the change in which an answer is put down to it. What answered stays its consequence until "
        "it is back",
    ] = 20
    minimum: Annotated[Count, "observations of an answer before it is judged"] = 8
    last: float | None = remembered()
    highest: float = remembered(0.0)
    left: int = remembered(0)
    before: float = remembered(0.0)
    raised: float = remembered(0.0)
    hit: bool = remembered(False)
    baselines: dict[str, Baseline] = remembered(dict)

    def __post_init__(self) -> None:
        self.baselines = {key: Baseline(window=32) for key in self.answers}

    def judge(self, step: int, row: Row) -> Finding | None:
        """Note a change of the rate; while its patience lasts, look for an answer."""
        value = self.read(row)
        if value is None:
            return None
        last = self.last
        if last and value >= self.factor * last and last >= self.settled * self.highest:
            self.left, self.before, self.raised, self.hit = self.patience, last, value, False
            for baseline in self.baselines.values():
                baseline.freeze()
        self.last, self.highest = value, max(self.highest, value)
        answer = None
        has_risen = self.left > 0 or self.hit
        evidence: dict[str, float | str] = {}
        if has_risen:
            answer = self._answer(row)
            self.left = max(0, self.left - 1)
            self.hit = answer is not None or (self.hit and self.left > 0)
            evidence |= {"before": self.before, "rise": self.raised / self.before}
            value, last = self.raised, self.before
        else:
            for key, baseline in self.baselines.items():
                if key in row:
                    baseline.add(row[key])
        if answer is not None:
            evidence |= {"answer": answer, "answering": ANSWERS.get(answer, answer), "reached": row[answer]}
            evidence["usual"] = self.baselines[answer].median
        limit = None if last is None else last * self.factor
        judged = any(len(baseline) >= self.minimum for baseline in self.baselines.values())
        return Finding(answer is not None, not self.hit, value, limit, False, evidence, self.key, judged)

    def _answer(self, row: Row) -> str | None:
        """The first series whose value is above its median by z spreads and by (ratio - 1) times the median's size.

        A series whose median is 0 has no usual size, and is not asked.
        """
        for key, baseline in self.baselines.items():
            if key in row and len(baseline) >= self.minimum and baseline.median != 0.0:
                margin = max(self.z * baseline.spread, (self.ratio - 1.0) * abs(baseline.median))
                if row[key] - baseline.median > margin:
                    return key
        return None
