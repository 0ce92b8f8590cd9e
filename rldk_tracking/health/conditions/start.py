"""A value that has left the level at which the run began, and a value that is wrong when the run begins."""

from __future__ import annotations

from typing import ClassVar

from rldk_tracking.health.conditions.base import Condition, Finding, Row
from rldk_tracking.health.detectors.baseline import median_of_sorted


class FromStart(Condition):
    """Breached where the value is `factor` times the run's first values (`factor` < 1: below that share of them).

    Args:
        factor: over 1 for a rise, under 1 for a fall.
        beyond: an absolute limit that the value must also pass: above it for a rise, below it for a fall.
        change: smallest absolute change that matters.
        critical_factor: where it is critical.
        early: how many first values make up the start (their median).
    """

    STATE: ClassVar[tuple[str, ...]] = (*Condition.STATE, "first", "start")

    def __init__(
        self,
        keys: tuple[str, ...],
        *,
        factor: float,
        beyond: float | None = None,
        change: float = 0.0,
        critical_factor: float | None = None,
        early: int = 8,
        zero_is_missing: bool = False,
    ) -> None:
        super().__init__(keys, zero_is_missing=zero_is_missing)
        if factor <= 0 or factor == 1:
            raise ValueError("factor must be positive and not 1.")
        self.factor, self.beyond, self.change = factor, beyond, change
        self.critical_factor, self.early = critical_factor, early
        self.first: list[float] = []
        self.start: float | None = None

    def judge(self, step: int, row: Row) -> Finding | None:
        """Hold the value to the start."""
        value = self.read(row)
        if value is None:
            return None
        if self.start is None:
            self.first.append(value)
            if len(self.first) >= self.early:
                self.start = median_of_sorted(sorted(self.first))
                self.first = []
            return Finding(False, True, value, key=self.key)
        rising = self.factor > 1
        limit = self.start * self.factor
        if rising:
            limit = max(limit, self.start + self.change, limit if self.beyond is None else self.beyond)
        else:
            limit = min(limit, self.start - self.change, limit if self.beyond is None else self.beyond)
        breached = value > limit if rising else value < limit
        halfway = (limit + self.start) / 2 if (self.start < limit) == rising else limit
        clear = value <= halfway if rising else value >= halfway
        critical = False
        if breached and self.critical_factor is not None:
            edge = self.start * self.critical_factor
            critical = value > edge if rising else value < edge
        return Finding(breached, clear and not breached, value, limit, critical, {"start": self.start}, self.key)


class First(Condition):
    """Breached where the first value of the run, at step `latest` or before, is beyond `above` in absolute terms.

    A run that is joined later (a log that begins at step 50, a resume without state) is not judged.

    Args:
        above: the limit.
        critical_above: where it is critical.
        latest: the last step whose value still tells of the beginning.
        clear_after: further values after which the finding is over; it describes a moment.
    """

    STATE: ClassVar[tuple[str, ...]] = (*Condition.STATE, "seen", "value")

    def __init__(
        self, keys: tuple[str, ...], *, above: float, critical_above: float | None = None, latest: int = 10
    ) -> None:
        super().__init__(keys)
        self.above, self.critical_above, self.latest = above, critical_above, latest
        self.seen = 0
        self.value: float | None = None

    def judge(self, step: int, row: Row) -> Finding | None:
        """Judge the first value, then keep that verdict while values stay that far off."""
        value = self.read(row)
        if value is None:
            return None
        self.seen += 1
        if self.seen == 1 and step <= self.latest:
            self.value = value
        if self.value is None:
            return Finding(False, True, None, self.above, key=self.key)
        breached = abs(self.value) > self.above and self.seen == 1
        critical = breached and self.critical_above is not None and abs(self.value) > self.critical_above
        return Finding(breached, abs(value) <= self.above / 2, value, self.above, critical, key=self.key)
