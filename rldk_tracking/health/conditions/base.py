"""A condition looks at one row at a time and says whether what a rule watches for is there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from rldk_tracking.health.detectors import Stateful

Row = Mapping[str, float]


@dataclass(slots=True)
class Finding:
    """What a condition found in a row that had its data. Not frozen, which would double the cost of a step.

    Attributes:
        breached: the problem is there, in this row.
        clear: it is gone by a margin (the other side of the hysteresis). Between the two, nothing changes.
        value, threshold: the number and the limit that it was held to; None where several numbers decide.
        critical: bad enough for the severity "critical" whatever the rule's own is.
        evidence: further numbers, where there are any.
        key: the series that was judged.
        judged: False while the condition still learns what is normal for this run.
        averaged_rows: over how many rows `value` is a mean; 1 where it is this row's own.
        now: this row's own value, where `value` is a mean.
    """

    breached: bool
    clear: bool
    value: float | None = None
    threshold: float | None = None
    critical: bool = False
    evidence: Mapping[str, float | str] | None = None
    key: str | None = None
    judged: bool = True
    averaged_rows: float = 1.0
    now: float | None = None


class Condition(Stateful, ABC):
    """Base of all conditions.

    `keys` are alternatives in order of preference. The first that appears is the one that is judged for the rest of
    the run: two estimators of one quantity do not share a baseline.
    """

    STATE: ClassVar[tuple[str, ...]] = ("key", "moved")
    risk_key: ClassVar[str | None] = None
    """The series under which the condition's `risk` goes into the row, where it has one."""
    risk: float | None = None

    def __init__(self, keys: tuple[str, ...], *, zero_is_missing: bool = False) -> None:
        self.keys = keys
        self.key: str | None = None
        self.zero_is_missing = zero_is_missing
        self.moved = False

    def read(self, row: Row) -> float | None:
        """The watched value, or None where this row lacks it.

        With `zero_is_missing`, zeros count only once another value was seen: many loops log a constant 0 for what
        they do not measure.
        """
        if self.key is None:
            self.key = next((key for key in self.keys if key in row), None)
            if self.key is None:
                return None
        value = row.get(self.key)
        if value is None:
            return None
        if self.zero_is_missing and not self.moved:
            if value == 0.0:
                return None
            self.moved = True
        return value

    @abstractmethod
    def judge(self, step: int, row: Row) -> Finding | None:
        """None where the row lacks what the condition needs."""


def sign_of(direction: str) -> float:
    """1 for "above" and "up", -1 for "below" and "down".

    Raises:
        ValueError: for anything else.
    """
    signs = {"above": 1.0, "up": 1.0, "below": -1.0, "down": -1.0}
    if direction not in signs:
        raise ValueError(f"direction must be one of {', '.join(signs)}, got {direction!r}.")
    return signs[direction]
