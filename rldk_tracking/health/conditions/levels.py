"""Conditions that hold a value to a fixed limit: the rule's, zero, a multiple of its own error, a user's expression."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from rldk_tracking.health.conditions.base import (
    Condition,
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
from rldk_tracking.health.expression import Expression, ExpressionError


@condition("level")
class Level(Condition):
    """Breached where the value, or its exponential mean over `span` observations, is beyond `threshold`."""

    threshold: Annotated[float, "the limit; the value itself is still good"]
    direction: Annotated[Literal["above", "below"], "the bad side"] = "above"
    clear: Annotated[float | None, "where the breach ends; the threshold by default"] = None
    critical: Annotated[float | None, "beyond which the breach is critical"] = None
    zero_is_missing: ZeroIsMissing = False
    zero_needs: Annotated[
        str | None, "an exact 0 is a measurement only in rows where this series is there and not 0 itself"
    ] = None
    span: Span = 1.0
    only_below: Annotated[
        dict[str, float] | None, "key to limit: where a row has that key, it must be below the limit for a breach"
    ] = None
    unless_improving: Annotated[
        NonNegative | None,
        "a value that is on its way back is no breach, and not clear yet: the exponential mean is nearer to the "
        "threshold than one over four times the span, by this share of the latter's distance",
    ] = None
    sure: Annotated[
        NonNegative, "standard errors, by the scatter of single values, by which the mean must be beyond the threshold"
    ] = 0.0
    patience: Annotated[
        int,
        Range(0),
        "observations from the first on in which a breach is not believed, since a run may begin with it and leave it",
    ] = 0
    hopeless: Annotated[float | None, "beyond which there is no patience, and nothing improves"] = None
    mean: float | None = remembered()
    slow: float | None = remembered()
    variance: float = remembered(0.0)
    count: int = remembered(0)

    def __post_init__(self) -> None:
        self.sign, self.weight = sign_of(self.direction), 2.0 / (self.span + 1.0)
        self.end = self.threshold if self.clear is None else self.clear

    def judge(self, step: int, row: Row) -> Finding | None:
        """Compare the value with the limits."""
        now = self.read(row)
        if now is None or (now == 0.0 and self.zero_needs is not None and not row.get(self.zero_needs)):
            return None
        value, sign, margin = now, self.sign, 0.0
        if self.weight < 1.0:
            weight, before = self.weight, now if self.mean is None else self.mean
            value = self.mean = smoothed(self.mean, value, weight)
            if self.sure:
                self.variance += weight * ((now - before) ** 2 * (1.0 - weight) - self.variance)
                margin = self.sure * (self.variance * weight / (2.0 - weight)) ** 0.5
        over = sign * (value - self.threshold) > 0
        harmless = self.only_below is not None and self._is_harmless(row)
        breached, waits = over and not harmless and sign * (value - self.threshold) > margin, False
        if self.patience or self.unless_improving is not None:
            self.count += 1
            improves = self.unless_improving is not None and self._improves(value, self.unless_improving)
            hopeless = self.hopeless is not None and sign * (value - self.hopeless) > 0
            waits = breached and self.count <= self.patience and not hopeless
            breached = breached and not waits and (hopeless or not improves)
        clear = harmless or (not over and sign * (value - self.end) <= 0)
        critical = breached and self.critical is not None and sign * (value - self.critical) > 0
        found = Finding(breached, clear, value, self.threshold, critical, key=self.key, judged=not waits)
        if self.weight < 1.0:
            found.averaged_rows, found.now = self.span, now
        return found

    def _is_harmless(self, row: Row) -> bool:
        return any(row.get(key, limit - 1.0) >= limit for key, limit in (self.only_below or {}).items())

    def _improves(self, value: float, share: float) -> bool:
        self.slow = smoothed(self.slow, value, 2.0 / (4.0 * self.span + 1.0))
        gained, distance = self.sign * (self.slow - value), self.sign * (self.slow - self.threshold)
        return distance > 0 and gained > share * distance


@condition("levels")
class Levels(Condition):
    """Breached where any key is above its limit; what is reported is the one that is furthest above, in proportion."""

    limits: Annotated[dict[str, float], "key to limit, above 0"]
    clear: Annotated[float, "share of the limit below which every value is clear"] = 1.0

    def __post_init__(self) -> None:
        if not self.limits or not all(limit > 0 for limit in self.limits.values()) or set(self.limits) - set(self.keys):
            raise ValueError("limits must give a limit above 0 to some of the rule's keys.")

    def judge(self, step: int, row: Row) -> Finding | None:
        """Hold each value that is there to its limit."""
        shares = {key: row[key] / limit for key, limit in self.limits.items() if key in row}
        if not shares:
            return None
        worst = max(shares, key=lambda key: shares[key])
        evidence = {key: row[key] for key in shares if key != worst}
        clear = shares[worst] <= self.clear
        return Finding(shares[worst] > 1.0, clear, row[worst], self.limits[worst], False, evidence, worst)


@condition("below_zero")
class BelowZero(Condition):
    """Breached where the value is below 0 by `z` of its standard errors and by `floor`."""

    error_key: Annotated[
        str, "the standard error of the value. Rows without it are not judged unless `floor_alone` is given"
    ]
    z: Annotated[NonNegative, "standard errors"] = 4.0
    floor: Annotated[NonNegative, "smallest distance from 0 that matters"] = 0.0
    floor_alone: Annotated[NonNegative | None, "the distance that is enough where no standard error is known"] = None

    def judge(self, step: int, row: Row) -> Finding | None:
        """Hold the value to its error."""
        value = self.read(row)
        if value is None:
            return None
        error = row.get(self.error_key)
        if error is not None:
            limit = -max(self.z * error, self.floor)
        elif self.floor_alone is not None:
            limit = -self.floor_alone
        else:
            return None
        return Finding(value < limit, value >= limit / 2, value, limit, key=self.key)


@condition("still")
class ConstantZero(Condition):
    """Breached where any of the keys is exactly 0."""

    unless_above: Annotated[
        dict[str, float] | None,
        "key to limit; where a row has that key above the limit, another rule knows the cause and this one says "
        "nothing (a gradient of 0 is no surprise where every group is tied)",
    ] = None
    after_motion: Annotated[
        bool, "zeros count only once another value was seen; a log that rounds 1e-6 to 0.000 is no schedule"
    ] = False
    seen_motion: bool = remembered(False)

    def judge(self, step: int, row: Row) -> Finding | None:
        """Look for a zero."""
        present = [key for key in self.keys if key in row]
        if not present:
            return None
        explained = any(row.get(key, limit) > limit for key, limit in (self.unless_above or {}).items())
        zero = next((key for key in present if row[key] == 0.0), None)
        self.seen_motion = self.seen_motion or zero is None
        breached = zero is not None and not explained and (self.seen_motion or not self.after_motion)
        return Finding(breached, zero is None, row[zero or present[0]], 0.0, key=zero or present[0])


@condition("first")
class FirstValue(Condition):
    """Breached where the run's first value is beyond a limit, which depends on how surely it is the first.

    A run that is joined later (a log that begins at step 50, a resume without state) is not judged.
    """

    exact: Annotated[
        NonNegative, "the limit at step 0 or 1 where `exact_key` is there too: measured on this step's rollout"
    ]
    exact_key: Annotated[str, "what a row has whose value was measured on its own rollout"]
    at_once: Annotated[NonNegative, "the limit at step 0 or 1 without it"]
    above: Annotated[
        NonNegative,
        "the limit at a step up to `latest`: a log's mean over its first interval, in which the policy moved",
    ]
    critical: Annotated[float | None, "where it is critical"] = None
    latest: Annotated[int, Range(0), "the last step whose value still tells of the beginning"] = 10
    sequence_key: Annotated[str | None, "the same quantity as a sum over a response, where nothing else is"] = None
    sequence_above: Annotated[NonNegative, "the limit of that sum"] = 5.0
    seen: int = remembered(0)

    def __post_init__(self) -> None:
        if self.sequence_key:
            self.keys = (*self.keys, self.sequence_key)

    def judge(self, step: int, row: Row) -> Finding | None:
        """Judge the first value; later ones only say when the difference is gone."""
        value = self.read(row)
        if value is None:
            return None
        self.seen += 1
        if self.key == self.sequence_key:
            limit = self.sequence_above
        elif step > 1:
            limit = self.above
        else:
            limit = self.exact if self.exact_key in row else self.at_once
        breached = self.seen == 1 and step <= self.latest and abs(value) > limit
        worst = None if self.key == self.sequence_key else self.critical
        critical = breached and worst is not None and abs(value) > worst
        return Finding(breached, abs(value) <= limit / 2, value, math.copysign(limit, value), critical, key=self.key)


@condition("written")
class ExpressionCondition(Condition):
    """Breached where `when` is true, clear where `clear_when` is, by default where `when` is not."""

    when: Annotated[str, "see `rldk_tracking.health.expression`"]
    clear_when: Annotated[str | None, "likewise"] = None

    def __post_init__(self) -> None:
        self.breach = _parsed("when", self.when)
        self.end = None if self.clear_when is None else _parsed("clear_when", self.clear_when)
        self.memories = [each.memory() for each in (self.breach, self.end) if each is not None]

    def reads(self) -> Iterable[str]:
        """The series of both expressions, under either name."""
        return {name for memory in self.memories for key in memory.windows for name in (key, f"rldk/{key}")}

    def judge(self, step: int, row: Row) -> Finding | None:
        """Take the row into the windows and ask both expressions."""
        fresh = [memory.add(row) for memory in self.memories]
        if not fresh[0]:
            return None
        breached, value, limit = self.breach.judge_with_sides(self.memories[0])
        if breached is None:
            return None
        clear = not breached if self.end is None else self.end.judge(self.memories[1])
        key = self.memories[0].names[self.breach.keys[0]]
        return Finding(bool(breached), bool(clear) and not breached, value, limit, key=key)

    def state(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "windows": [{key: list(values) for key, values in memory.windows.items()} for memory in self.memories],
            "counters": [list(memory.counters) for memory in self.memories],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned. Windows of another expression are forgotten."""
        for memory, windows, counters in zip(self.memories, state["windows"], state["counters"], strict=False):
            for key, window in memory.windows.items():
                window.extend(windows.get(key, []))
            if len(counters) == len(memory.counters):
                memory.counters = list(counters)


def _parsed(name: str, text: str) -> Expression:
    try:
        return Expression(text)
    except ExpressionError as error:
        raise ExpressionError(f"{name}: {error}") from error
