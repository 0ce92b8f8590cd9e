"""Conditions on preference training: whether it tells the pairs apart, and whether it began at its reference."""

from __future__ import annotations

import math
from typing import Annotated

from rldk_tracking.health.conditions.base import (
    AtLeastOne,
    Condition,
    Count,
    Finding,
    NonNegative,
    Range,
    Row,
    condition,
)
from rldk_tracking.health.detectors import remembered
from rldk_tracking.health.detectors.trend import RunTrend

MARGIN, RATE = "rldk/preference/margin", "rldk/update/learning_rate"
REWARDS = {
    "rldk/preference/reward_chosen": "rldk/preference/chosen_logps",
    "rldk/preference/reward_rejected": "rldk/preference/rejected_logps",
}
"""Implicit reward to the log-probability of the same texts."""
DRIFT = "rldk/preference/chosen_logps_drift"
SAME = 1e-5
"""Margin up to which chosen and rejected texts score the same: what float32 leaves of a difference of equal sums."""


@condition("nothing_learned")
class NothingLearned(Condition):
    """Breached where the ranking of the pairs is no better than chance and does not get better.

    Chance is told from the rows themselves: the mean accuracy (exponential over `span`) must lie `sure` of its standard
    errors above one half. A margin that rises over the run is learning too, and so is the time in which the learning
    rate still rises. Pairs whose margin is 0 row after row are no pairs: the texts are the same, or nothing is trained.
    """

    minimum: Annotated[Count, "rows before anything is judged"] = 20
    steps: Annotated[int, Range(0), "trainer steps since the learning rate has reached its highest value"] = 200
    same: Annotated[Count, "rows in a row without any margin after which the texts count as the same"] = 20
    span: Annotated[AtLeastOne, "observations of the mean"] = 50.0
    sure: Annotated[NonNegative, "standard errors"] = 2.0
    trend: Annotated[NonNegative, "Mann and Kendall's statistic from which the margin's trend is no chance"] = 2.0
    gain: Annotated[NonNegative, "share of the largest margin so far that its rise must make up to count"] = 0.1
    count: int = remembered(0)
    mean: float = remembered(0.0)
    variance: float = remembered(0.0)
    begin: int | None = remembered()
    rate: float = remembered(0.0)
    margin: RunTrend = remembered(RunTrend)
    in_a_row: int = remembered(0)

    def judge(self, step: int, row: Row) -> Finding | None:
        """Follow accuracy and margin."""
        accuracy, margin = self.read(row), row.get(MARGIN)
        if accuracy is None or margin is None:
            return None
        rate = row.get(RATE, 0.0)
        if self.begin is None or rate > self.rate:
            self.begin, self.rate = step, max(rate, self.rate)
        self.margin.add(step, margin)
        self.in_a_row = self.in_a_row + 1 if abs(margin) <= SAME and accuracy <= 0.5 else 0
        self.count += 1
        weight = 1.0 / min(self.count, self.span)
        deviation = accuracy - self.mean
        self.mean += weight * deviation
        self.variance = (1.0 - weight) * (self.variance + weight * deviation**2)
        error = (self.variance / min(self.count, self.span)) ** 0.5
        told_apart = self.mean - self.sure * error > 0.5 or self._rises
        long_enough = self.count >= self.minimum and step - self.begin >= self.steps
        same = self.in_a_row >= self.same
        breached = same or (long_enough and not told_apart)
        evidence: dict[str, float | str] = {
            "margin": margin,
            "reason": "chosen and rejected texts score the same" if same else "neither rises",
        }
        return Finding(
            breached, told_apart and not same, self.mean, 0.5, False, evidence, self.key,
            judged=long_enough or same, averaged_rows=min(self.count, self.span), now=accuracy,
        )  # fmt: skip

    @property
    def _rises(self) -> bool:
        """Whether the margin does, from the first quarter of the run to the last."""
        blocks = self.margin.blocks
        quarter = len(blocks) // 4
        if quarter == 0 or self.margin.score <= self.trend:
            return False
        gained = (sum(blocks[-quarter:]) - sum(blocks[:quarter])) / quarter
        return gained >= self.gain * max(map(abs, blocks))


@condition("reference_apart")
class ReferenceApart(Condition):
    """Breached where the implicit rewards are not 0 when training begins: the policy does not start at its reference.

    An implicit reward is beta times log pi - log pi_ref, whatever the loss. At step 0 or 1 it is judged at once. A log
    that begins with the mean over an interval has learning in it, which goes on: it is judged by two such means that
    are beyond the limit and hardly differ. A run that is joined later (a resume without state) is not judged, and
    neither are trainers without a reference (ORPO, CPO, SimPO, TPO), whose "reward" is beta times log pi alone: there
    both rewards are the same multiple of their log-probabilities.
    """

    limit: Annotated[NonNegative, "reward beyond which it is not 0; rounding of bfloat16 leaves some hundredths"] = 0.2
    steady: Annotated[NonNegative, "share by which the second mean may differ from the first"] = 0.25
    latest: Annotated[int, Range(0), "the last step whose value still tells of the beginning"] = 50
    seen: int = remembered(0)
    first: dict[str, float] = remembered(dict)
    judged: bool = remembered(False)

    def judge(self, step: int, row: Row) -> Finding | None:
        """Judge the first value, or the first two."""
        if self.read(row) is None or not _has_reference(row):
            return None
        rewards = {key: row[key] for key in REWARDS if key in row}
        self.seen += 1
        key = max(rewards, key=lambda name: abs(rewards[name]))
        beyond = abs(rewards[key]) > self.limit
        breached = False
        if self.seen == 1 and step <= 1:
            breached, self.judged = beyond, True
        elif self.seen == 1 and step <= self.latest:
            self.first = rewards
        elif self.seen == 2 and self.first:
            self.judged = True
            breached = beyond and all(
                abs(rewards.get(name, first) - first) <= max(self.steady * abs(first), self.limit / 4)
                for name, first in self.first.items()
            )
        clear = abs(rewards[key]) <= self.limit / 2
        limit = math.copysign(self.limit, rewards[key])
        return Finding(breached, clear, rewards[key], limit, False, {}, key, judged=self.judged)


def _has_reference(row: Row) -> bool:
    """Whether the implicit rewards are measured against a reference, as far as a row tells."""
    if DRIFT in row:
        return True
    pairs = [(row[reward], row[logps]) for reward, logps in REWARDS.items() if reward in row and logps in row]
    if len(pairs) < len(REWARDS):
        return False
    (chosen, chosen_logps), (rejected, rejected_logps) = pairs
    one, other = chosen * rejected_logps, rejected * chosen_logps
    return abs(one - other) > 1e-3 * max(abs(one), abs(other))
