"""Conditions that hold a value to a fixed limit: the rule's, zero, a multiple of its own error, a user's expression."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from rldk_tracking.health.conditions.base import Condition, Finding, Row, sign_of
from rldk_tracking.health.expression import Expression, ExpressionError


class Level(Condition):
    """Breached where the value, or its exponential mean over `span` observations, is beyond `threshold`.

    Args:
        direction: "above" or "below" is the bad side.
        threshold: the limit; the value itself is still good.
        clear: where the breach ends; the threshold by default.
        critical: beyond which the breach is critical.
        zero_is_missing: zeros before the first other value are not a measurement.
        span: observations of the exponential mean; 1 judges single values.
        only_below: key to limit: where a row has that key, it must be below the limit for a breach.
        unless_improving: a value that is on its way back is no breach, and not clear yet: the exponential mean is
            nearer to the threshold than one over four times the span, by this share of the latter's distance.
    """

    STATE: ClassVar[tuple[str, ...]] = (*Condition.STATE, "mean", "slow")

    def __init__(
        self,
        keys: tuple[str, ...],
        *,
        threshold: float,
        direction: Literal["above", "below"] = "above",
        clear: float | None = None,
        critical: float | None = None,
        zero_is_missing: bool = False,
        span: float = 1.0,
        only_below: dict[str, float] | None = None,
        unless_improving: float | None = None,
    ) -> None:
        super().__init__(keys, zero_is_missing=zero_is_missing)
        self.sign = sign_of(direction)
        self.threshold, self.critical = threshold, critical
        self.clear = threshold if clear is None else clear
        self.span, self.weight = span, 2.0 / (span + 1.0)
        self.slow_weight = 2.0 / (4.0 * span + 1.0)
        self.only_below = dict(only_below or {})
        self.unless_improving = unless_improving
        self.mean: float | None = None
        self.slow: float | None = None

    def judge(self, step: int, row: Row) -> Finding | None:
        """Compare the value with the limits."""
        now = self.read(row)
        if now is None:
            return None
        value = now
        if self.weight < 1.0:
            value = self.mean = value if self.mean is None else self.mean + self.weight * (value - self.mean)
        sign = self.sign
        over = sign * (value - self.threshold) > 0
        harmless, improving = self._harmless(row), self._improving(value)
        breached = over and not harmless and not improving
        clear = harmless or (not over and sign * (value - self.clear) <= 0)
        critical = breached and self.critical is not None and sign * (value - self.critical) > 0
        found = Finding(breached, clear, value, self.threshold, critical, key=self.key)
        if self.weight < 1.0:
            found.averaged_rows, found.now = self.span, now
        return found

    def _harmless(self, row: Row) -> bool:
        return any(row.get(key, limit - 1.0) >= limit for key, limit in self.only_below.items())

    def _improving(self, value: float) -> bool:
        if self.unless_improving is None:
            return False
        self.slow = value if self.slow is None else self.slow + self.slow_weight * (value - self.slow)
        gained, distance = self.sign * (self.slow - value), self.sign * (self.slow - self.threshold)
        return distance > 0 and gained > self.unless_improving * distance


class Levels(Condition):
    """Breached where any key is above its limit; what is reported is the one that is furthest above, in proportion.

    Args:
        limits: key to limit, above 0.
        clear: share of the limit below which every value is clear.
    """

    def __init__(self, keys: tuple[str, ...], *, limits: dict[str, float], clear: float = 1.0) -> None:
        super().__init__(keys)
        if not limits or not all(limit > 0 for limit in limits.values()) or set(limits) - set(keys):
            raise ValueError("limits must give a limit above 0 to some of the rule's keys.")
        self.limits, self.share = dict(limits), clear

    def judge(self, step: int, row: Row) -> Finding | None:
        """Hold each value that is there to its limit."""
        shares = {key: row[key] / limit for key, limit in self.limits.items() if key in row}
        if not shares:
            return None
        worst = max(shares, key=lambda key: shares[key])
        evidence = {key: row[key] for key in shares if key != worst}
        clear = shares[worst] <= self.share
        return Finding(shares[worst] > 1.0, clear, row[worst], self.limits[worst], False, evidence, worst)


class BelowZero(Condition):
    """Breached where the value is below 0 by `z` of its standard errors and by `floor`.

    Args:
        error_key: the standard error of the value. Rows without it are not judged unless `floor_alone` is given.
        z: standard errors.
        floor: smallest distance from 0 that matters.
        floor_alone: the distance that is enough where no standard error is known.
    """

    def __init__(
        self,
        keys: tuple[str, ...],
        *,
        error_key: str,
        z: float = 4.0,
        floor: float = 0.0,
        floor_alone: float | None = None,
    ) -> None:
        super().__init__(keys)
        self.error_key, self.z, self.floor, self.floor_alone = error_key, z, floor, floor_alone

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


class ConstantZero(Condition):
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


class FirstValue(Condition):
    """Breached where the run's first value is beyond a limit, which depends on how surely it is the first.

    A run that is joined later (a log that begins at step 50, a resume without state) is not judged.

    Args:
        exact: the limit at step 0 or 1 where `exact_key` is there too: the value was measured on this step's rollout.
        at_once: the limit at step 0 or 1 without it.
        above: the limit at a step up to `latest`: a log's mean over its first interval, in which the policy moved.
        critical: where it is critical.
        latest: the last step whose value still tells of the beginning.
        sequence_key, sequence_above: the same quantity as a sum over a response, and its limit, where nothing else is.
    """

    STATE: ClassVar[tuple[str, ...]] = (*Condition.STATE, "seen")

    def __init__(
        self,
        keys: tuple[str, ...],
        *,
        exact: float,
        exact_key: str,
        at_once: float,
        above: float,
        critical: float | None = None,
        latest: int = 10,
        sequence_key: str | None = None,
        sequence_above: float = 5.0,
    ) -> None:
        super().__init__((*keys, sequence_key) if sequence_key else keys)
        self.exact, self.exact_key, self.at_once, self.above = exact, exact_key, at_once, above
        self.critical, self.latest = critical, latest
        self.sequence_key, self.sequence_above = sequence_key, sequence_above
        self.seen = 0

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
        critical = breached and self.key != self.sequence_key and self.critical is not None
        critical = critical and abs(value) > (self.critical or 0.0)
        clear = abs(value) <= limit / 2
        return Finding(breached, clear, value, math.copysign(limit, value), critical, key=self.key)


class ExpressionCondition(Condition):
    """Breached where `when` is true, clear where `clear_when` is, by default where `when` is not.

    Args:
        when: see `rldk_tracking.health.expression`.
        clear_when: likewise.

    Raises:
        ExpressionError: a text is no expression.
    """

    def __init__(self, keys: tuple[str, ...], *, when: str, clear_when: str | None = None) -> None:
        super().__init__(keys)
        self.when = _parsed("when", when)
        self.clear_when = None if clear_when is None else _parsed("clear_when", clear_when)
        self.memory = self.when.memory()
        self.clear_memory = None if self.clear_when is None else self.clear_when.memory()

    def judge(self, step: int, row: Row) -> Finding | None:
        """Take the row into the windows and ask both expressions."""
        fresh = self.memory.add(row)
        if self.clear_memory is not None:
            self.clear_memory.add(row)
        if not fresh:
            return None
        breached, value, limit = self.when.judge_with_sides(self.memory)
        if breached is None:
            return None
        clear: float | bool | None = not breached
        if self.clear_when is not None and self.clear_memory is not None:
            clear = self.clear_when.judge(self.clear_memory)
        return Finding(bool(breached), bool(clear) and not breached, value, limit, key=self.when.keys[0])

    def state(self) -> dict[str, Any]:
        """Plain data."""
        memories = [memory for memory in (self.memory, self.clear_memory) if memory is not None]
        return {
            "windows": [{key: list(values) for key, values in memory.windows.items()} for memory in memories],
            "counters": [list(memory.counters) for memory in memories],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned. Windows of another expression are forgotten."""
        memories = [memory for memory in (self.memory, self.clear_memory) if memory is not None]
        for memory, windows, counters in zip(memories, state["windows"], state["counters"], strict=False):
            for key, window in memory.windows.items():
                window.extend(windows.get(key, []))
            if len(counters) == len(memory.counters):
                memory.counters = list(counters)


def _parsed(name: str, text: str) -> Expression:
    try:
        return Expression(text)
    except ExpressionError as error:
        raise ExpressionError(f"{name}: {error}") from error
