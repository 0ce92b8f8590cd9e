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
    reads_others: ClassVar[bool] = False
    """Whether rows without any series of `reads` may change something, so that all are judged."""
    risk_key: ClassVar[str | None] = None
    """The series under which the condition's `risk` goes into the row, where it has one."""

    def read(self, row: Row) -> float | None:
        """The watched value, or None where this row lacks it.

        With `zero_is_missing`, zeros count only once another value was seen: many loops log a constant 0 for what
        they do not measure.
        """
        key = self.key
        if key is None:
            key = self.key = first_of(self.keys, row)
            if key is None:
                return None
        value = row.get(key)
        if self.zero_is_missing and not self.moved and value is not None:
            if value == 0.0:
                return None
            self.moved = True
        return value

    def reads(self) -> Iterable[str]:
        """Series without any of which a row changes nothing, so that it need not be judged."""
        return self.keys

    @abstractmethod
    def judge(self, step: int, row: Row) -> Finding | None:
        """None where the row lacks what the condition needs."""

    def learns(self, value: float) -> Finding:
        """What a condition finds while it does not know yet what is normal."""
        return Finding(False, True, value, key=self.key, judged=False)


def first_of(keys: Iterable[str], row: Row) -> str | None:
    """The first of the keys that the row has."""
    for key in keys:  # a generator takes several times as long, and every rule asks in every row
        if key in row:
            return key
    return None


def smoothed(mean: float | None, value: float, weight: float) -> float:
    """The exponential mean after another value."""
    return value if mean is None else mean + weight * (value - mean)


def sign_of(direction: str) -> float:
    """1 for "above" and "up", -1 for "below" and "down"; a ValueError for anything else."""
    signs = {"above": 1.0, "up": 1.0, "below": -1.0, "down": -1.0}
    if direction not in signs:
        raise ValueError(f"direction must be one of {', '.join(signs)}, got {direction!r}.")
    return signs[direction]


REWARD_MEAN = "rldk/reward/mean"
REWARD_SPREADS = ("rldk/reward/group_std_mean", "rldk/reward/std")
TIED_AT_TOP = "rldk/reward/group_tied_fraction_all_max"
PROGRESS = (REWARD_MEAN, *REWARD_SPREADS, TIED_AT_TOP)
"""What `Progress` reads."""
PATIENCE_ROWS = 20
"""Rows without a new best after which a reward has stopped to rise."""


@dataclass(eq=False)
class Progress(Stateful):
    """How far a run has come with its task: has the reward climbed, is it at its best, is the task solved?

    Follows the mean reward (exponential over 9 rows), its best, and the largest spread of single rewards. A collapse
    and success both lose entropy, diversity and spread. They differ in the reward.

    Args:
        ceiling: the highest reward that the task can give, where it is known.
        margin: how near the best, or the ceiling, counts as there, as a share of the climb.
        climb: the rise since the first rows that counts as one, in units of the largest spread.
    """

    ceiling: float | None = None
    margin: float = 0.15
    climb: float = 1.0
    count: int = remembered(0)
    mean: float | None = remembered()
    first: float = remembered(0.0)
    best: float = remembered(0.0)
    peak: float = remembered(0.0)
    since_best: int = remembered(0)
    lowest: float = remembered(0.0)
    widest: float = remembered(0.0)
    jitter: float = remembered(0.0)
    spread: float | None = remembered()
    all_max: float | None = remembered()

    def add(self, row: Mapping[str, float]) -> None:
        """Take what the row says of the reward."""
        if (key := first_of(REWARD_SPREADS, row)) is not None:
            self.spread = smoothed(self.spread, row[key], 0.2)
            self.widest = max(self.widest, row[key])
        if (all_max := row.get(TIED_AT_TOP)) is not None:
            self.all_max = smoothed(self.all_max, all_max, 0.2)
        value = row.get(REWARD_MEAN)
        if value is None:
            return
        self.count += 1
        mean = self.mean
        if mean is None:
            mean = self.best = self.peak = self.lowest = value
        mean = self.mean = mean + 0.2 * (value - mean)
        self.jitter += 0.1 * (abs(value - mean) - self.jitter)
        if self.count <= 5:
            self.first += (value - self.first) / self.count
        if mean < self.lowest:
            self.lowest = mean
        self.since_best += 1
        if mean > self.peak + 0.02 * abs(self.best - self.lowest):  # of a slow rise too, row by row a smaller one
            self.since_best, self.peak = 0, mean
        if mean > self.best:
            self.best = mean

    @property
    def climbed(self) -> bool:
        """Whether the best is above the first rows by more than single rewards ever differed."""
        return self.widest > 0 and self.best - self.first >= self.climb * self.widest

    @property
    def at_best(self) -> bool:
        """Whether the reward is where it was at its best."""
        return self.mean is not None and self.mean >= self.best - self.margin * (self.best - self.lowest)

    @property
    def at_lowest(self) -> bool:
        """Whether the reward is where it was at its lowest."""
        return self.mean is not None and self.mean <= self.lowest + 0.1 * (self.best - self.lowest)

    @property
    def solved(self) -> bool:
        """At the task's ceiling where that is known, else at the best after a climb, any ties being ties at the top."""
        if self.mean is None:
            return False
        if self.ceiling is not None:
            extent = max(self.ceiling - self.lowest, 0.1 * abs(self.ceiling))
            return self.mean >= self.ceiling - self.margin * extent
        return self.climbed and self.at_best and (self.all_max is None or self.all_max >= 0.5)

    @property
    def keeps_its_rise(self) -> bool:
        """Whether the reward rose, by a climb or by four times what its means scatter by, and keeps most of that."""
        rise, kept = self.best - self.first, (self.mean or 0.0) - self.first
        return (self.climbed or 0.0 < 4.0 * self.jitter <= rise) and kept >= 0.7 * rise

    @property
    def excuses(self) -> bool:
        """Whether a loss of variety costs nothing: the task is solved; or the reward keeps its rise and is tied at the
        top, or still varies while it goes on (a best in the last quarter) or has three quarters of what can be had."""
        if self.solved or not self.keeps_its_rise:
            return self.solved
        top = self.all_max
        varies = (self.spread or 0.0) > 0.25 * self.widest
        goes_on = self.since_best <= max(PATIENCE_ROWS, self.count // 4)
        has_most = self.near_ceiling(0.75) and (top is None or top >= 0.05)
        return (top is not None and top >= 0.3) or (varies and (goes_on or has_most))

    def near_ceiling(self, share: float = 0.5) -> bool:
        """Whether so much of what can be had is had, if rewards are 0 or R: mean / R = mean² / (mean² + spread²). A
        reward that hardly varies at all tells nothing of the kind."""
        if self.mean is None or self.spread is None or self.mean <= 0 or self.spread <= 0.02 * self.mean:
            return False
        return self.mean**2 / (self.mean**2 + self.spread**2) > share
