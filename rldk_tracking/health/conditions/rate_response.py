"""A condition on what answers a raised learning rate."""

from __future__ import annotations

from typing import Annotated

from rldk_tracking.health.conditions.base import AtLeastOne, Condition, Count, Finding, NonNegative, Row, condition
from rldk_tracking.health.detectors import remembered
from rldk_tracking.health.detectors.baseline import Baseline

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
