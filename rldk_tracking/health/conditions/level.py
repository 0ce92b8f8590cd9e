"""A value beyond a fixed limit, with a second limit for the way back."""

from __future__ import annotations

from typing import ClassVar, Literal

from rldk_tracking.health.conditions.base import Condition, Finding, Row


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
        unless_improving: a value that is on its way back is no breach: the exponential mean is nearer to the threshold
            than one over four times the span, by this share of the latter's distance.
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
        self.weight = 2.0 / (span + 1.0)
        self.slow_weight = 2.0 / (4.0 * span + 1.0)
        self.only_below = dict(only_below or {})
        self.unless_improving = unless_improving
        self.mean: float | None = None
        self.slow: float | None = None

    def judge(self, step: int, row: Row) -> Finding | None:
        """Compare the value with the limits."""
        value = self.read(row)
        if value is None:
            return None
        if self.weight < 1.0:
            value = self.mean = value if self.mean is None else self.mean + self.weight * (value - self.mean)
        sign = self.sign
        over = sign * (value - self.threshold) > 0
        excused = self._excused(value, row)
        breached = over and not excused
        clear = excused or (not over and sign * (value - self.clear) <= 0)
        critical = breached and self.critical is not None and sign * (value - self.critical) > 0
        return Finding(breached, clear, value, self.threshold, critical, key=self.key)

    def _excused(self, value: float, row: Row) -> bool:
        if any(row.get(key, limit - 1.0) >= limit for key, limit in self.only_below.items()):
            return True
        if self.unless_improving is None:
            return False
        self.slow = value if self.slow is None else self.slow + self.slow_weight * (value - self.slow)
        gained, distance = self.sign * (self.slow - value), self.sign * (self.slow - self.threshold)
        return distance > 0 and gained > self.unless_improving * distance


def sign_of(direction: str) -> float:
    """1 for "above" and "up", -1 for "below" and "down".

    Raises:
        ValueError: for anything else.
    """
    signs = {"above": 1.0, "up": 1.0, "below": -1.0, "down": -1.0}
    if direction not in signs:
        raise ValueError(f"direction must be one of {', '.join(signs)}, got {direction!r}.")
    return signs[direction]
