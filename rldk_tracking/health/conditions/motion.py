"""Whether the optimizer moves anything, and what the training did when the learning rate was changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from rldk_tracking.health.conditions.base import Condition, Finding, Row
from rldk_tracking.health.detectors.baseline import Baseline
from rldk_tracking.health.detectors.stateful import Stateful


class Still(Condition):
    """Breached where any of the keys is exactly 0.

    Args:
        unless_above: key to limit; where a row has that key above the limit, another rule knows the cause and this one
            says nothing (a gradient of 0 is no surprise where every group is tied).
        after_motion: zeros count only once another value was seen; a log that rounds 1e-6 to 0.000 is no schedule.
    """

    STATE: ClassVar[tuple[str, ...]] = (*Condition.STATE, "seen_motion")

    def __init__(
        self, keys: tuple[str, ...], *, unless_above: dict[str, float] | None = None, after_motion: bool = False
    ) -> None:
        super().__init__(keys)
        self.after_motion = after_motion
        self.seen_motion = False
        self.unless_above = dict(unless_above or {})

    def judge(self, step: int, row: Row) -> Finding | None:
        """Look for a zero."""
        present = [key for key in self.keys if key in row]
        if not present:
            return None
        explained = any(row.get(key, limit) > limit for key, limit in self.unless_above.items())
        zero = next((key for key in present if row[key] == 0.0), None)
        self.seen_motion = self.seen_motion or zero is None
        breached = zero is not None and not explained and (self.seen_motion or not self.after_motion)
        return Finding(breached, zero is None, row[zero or present[0]], 0.0, key=zero or present[0])


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
