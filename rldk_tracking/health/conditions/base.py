"""A condition looks at one row at a time and says whether what a rule watches for is there.

A condition is a class in a file of this folder. Its annotated fields are its parameters, each with its type, its range
and what it means; what it has to remember is declared as `remembered`:

    @condition("above")
    class Above(Condition):
        \"""Breached where the value is above a limit.\"""

        threshold: Annotated[float, "the limit"]
        seen: int = remembered(0)

        def judge(self, step: int, row: Row) -> Finding | None:
            ...
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, TypeVar

from rldk_tracking.health.detectors import Stateful, remembered

Row = Mapping[str, float]
C = TypeVar("C", bound="Condition")

CONDITIONS: dict[str, type[Condition]] = {}
"""Name, as rules call it, to condition."""


@dataclass(frozen=True, slots=True)
class Range:
    """The least and the largest value that a parameter may have; None where there is no such limit."""

    low: float | None
    high: float | None = None


NonNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
Correlation = Annotated[float, Range(-1, 1)]
AtLeastOne = Annotated[float, Range(1)]
Count = Annotated[int, Range(1)]
Direction = Annotated[Literal["up", "down"], "in which a change is a breach"]
Span = Annotated[AtLeastOne, "observations of the exponential mean that is judged; 1 judges single values"]
ZeroIsMissing = Annotated[bool, "zeros before the first other value are not a measurement"]


def condition(name: str) -> Callable[[type[C]], type[C]]:
    """Make a class a condition that rules can name."""

    def register(kind: type[C]) -> type[C]:
        CONDITIONS[name] = dataclass(eq=False, repr=False, kw_only=True)(kind)
        return kind

    return register


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


@dataclass(eq=False, repr=False)
class Condition(Stateful, ABC):
    """Base of all conditions.

    Attributes:
        keys: alternatives in order of preference. The first that appears is the one that is judged for the rest of the
            run: two estimators of one quantity do not share a baseline.
    """

    keys: tuple[str, ...]
    key: str | None = remembered()
    moved: bool = remembered(False)
    risk: float | None = remembered()

    zero_is_missing = False
    risk_key: ClassVar[str | None] = None
    """The series under which the condition's `risk` goes into the row, where it has one."""

    def read(self, row: Row) -> float | None:
        """The watched value, or None where this row lacks it.

        With `zero_is_missing`, zeros count only once another value was seen: many loops log a constant 0 for what
        they do not measure.
        """
        if self.key is None:
            self.key = first_of(self.keys, row)
            if self.key is None:
                return None
        value = row.get(self.key)
        if self.zero_is_missing and not self.moved and value is not None:
            if value == 0.0:
                return None
            self.moved = True
        return value

    @abstractmethod
    def judge(self, step: int, row: Row) -> Finding | None:
        """None where the row lacks what the condition needs."""

    def learns(self, value: float) -> Finding:
        """What a condition finds while it does not know yet what is normal."""
        return Finding(False, True, value, key=self.key, judged=False)


def first_of(keys: Iterable[str], row: Row) -> str | None:
    """The first of the keys that the row has."""
    for key in keys:
        if key in row:
            return key
    return None


def smoothed(mean: float | None, value: float, weight: float) -> float:
    """The exponential mean after another value."""
    return value if mean is None else mean + weight * (value - mean)


def sign_of(direction: str) -> float:
    """1 for "above" and "up", -1 for "below" and "down".

    Raises:
        ValueError: for anything else.
    """
    signs = {"above": 1.0, "up": 1.0, "below": -1.0, "down": -1.0}
    if direction not in signs:
        raise ValueError(f"direction must be one of {', '.join(signs)}, got {direction!r}.")
    return signs[direction]
