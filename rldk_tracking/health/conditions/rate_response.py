"""A condition on what answers a raised learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from rldk_tracking.health.conditions.base import Condition, Finding, Row
from rldk_tracking.health.detectors import Stateful
from rldk_tracking.health.detectors.baseline import Baseline

ANSWERS = {
    "rldk/train/loss": "the loss",
    "rldk/kl/ref_k3": "the KL to the reference",
    "rldk/kl/ref_k1": "the KL to the reference",
    "rldk/grad/norm": "the gradient norm",
}
"""What may answer a raised learning rate, in words."""


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

    STATE: ClassVar[tuple[str, ...]] = (
        *Condition.STATE, "last", "highest", "left", "before", "raised", "baselines", "hit",
    )  # fmt: skip

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
        self.before = self.raised = 0.0
        self.hit = False
        self.baselines = Baselines(tuple(answers))

    def judge(self, step: int, row: Row) -> Finding | None:
        """Note a change of the rate; while its patience lasts, look for an answer."""
        value = self.read(row)
        if value is None:
            return None
        last = self.last
        if last and value >= self.factor * last and last >= self.settled * self.highest:
            self.left, self.before, self.raised, self.hit = self.patience, last, value, False
            self.baselines.freeze()
        self.last, self.highest = value, max(self.highest, value)
        answer = None
        has_risen = self.left > 0 or self.hit
        if has_risen:
            answer = self.baselines.beyond(row, self.z, self.ratio, self.minimum)
            self.left = max(0, self.left - 1)
            self.hit = answer is not None or (self.hit and self.left > 0)
        else:
            self.baselines.add(row)
        evidence: dict[str, float | str] = {}
        if has_risen:
            evidence |= {"before": self.before, "rise": self.raised / self.before}
            value, last = self.raised, self.before
        if answer is not None:
            evidence |= {"answer": answer, "answering": ANSWERS.get(answer, answer), "reached": row[answer]}
            evidence["usual"] = self.baselines.of[answer].median
        limit = None if last is None else last * self.factor
        judged = self.baselines.are_known(self.minimum)
        return Finding(answer is not None, not self.hit, value, limit, False, evidence, self.key, judged)


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

    def are_known(self, minimum: int) -> bool:
        """Whether any has as many values."""
        return any(len(baseline) >= minimum for baseline in self.of.values())

    def beyond(self, row: Row, z: float, ratio: float, minimum: int) -> str | None:
        """The first series whose value is above its median by z spreads and by (ratio - 1) times the median's size.

        A series whose median is 0 has no usual size, and is not asked.
        """
        for key, baseline in self.of.items():
            if key in row and len(baseline) >= minimum and baseline.median != 0.0:
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
