"""What is normal for this run, and how far a series has moved away from it."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rldk_tracking.health.detectors import Stateful, remembered

MAD_TO_SIGMA = 1.4826
"""The median absolute deviation of a normal distribution times this is its standard deviation."""
ABSOLUTE_DEVIATION_TO_SIGMA = 1.2533
"""The same for the mean absolute deviation."""
MANY_SIGMAS = 1e9
"""Standard deviations of a change in a series without noise."""
BEND_TO_SIGMA = ABSOLUTE_DEVIATION_TO_SIGMA / math.sqrt(6.0)
"""The mean of |x - 2 x before + x before that| times this is the standard deviation of x, if independent."""
ALIKE = 1.5
"""The factor within which single values of a sound run's first rows lie about their median."""
MOST_ALIKE = 3.0
"""By how much that is too small where neighbours correlate at 0.85."""
FARTHEST = 5.0 * math.sqrt(2.0)
"""Standard deviations of single values, of which values far apart are taken to differ at most."""
LAG_VALUES = 8
"""Values apart at which those of a first-order autoregression of up to 0.8 are all but independent."""


def median_of_sorted(values: Sequence[float]) -> float:
    """The median of an ascending, non-empty sequence."""
    middle = len(values) // 2
    return values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2


@dataclass(eq=False)
class Baseline(Stateful):
    """Median and MAD over the last `window` values that were taken for normal.

    A value waits for `delay` further ones before it counts, and whoever sees a fault calls `freeze`, which drops those
    that wait: the slow beginning of a fault does not move the measure that it is held to.
    """

    window: int = 48
    delay: int = 3
    values: deque[float] = remembered(deque)
    waiting: deque[float] = remembered(deque)

    def __post_init__(self) -> None:
        self.values = deque(maxlen=self.window)
        self._sorted: list[float] | None = []
        self._is_asked = True
        self._spread: float | None = None

    def __len__(self) -> int:
        return len(self.values)

    def add(self, value: float, at_once: bool = False) -> None:
        """Take a normal value; it counts `delay` values later, or at once."""
        waiting = self.waiting
        waiting.append(value)
        if at_once or len(waiting) > self.delay:
            self._accept(waiting.popleft())

    def freeze(self) -> None:
        """A fault is seen: what has not counted yet never will."""
        self.waiting.clear()

    def restart(self, values: Sequence[float]) -> None:
        """Another level is normal from now on."""
        self.values.clear()
        self.waiting.clear()
        self._sorted = None
        for value in values:
            self._accept(value)

    @property
    def ordered(self) -> list[float]:
        """The values that count, ascending."""
        self._is_asked = True
        if self._sorted is None:
            self._sorted = sorted(self.values)
        return self._sorted

    @property
    def median(self) -> float:
        """Of the values that count; there must be one."""
        return median_of_sorted(self.ordered)

    @property
    def spread(self) -> float:
        """The standard deviation that a normal distribution of this MAD would have. 0 where values repeat."""
        if self._spread is None:
            middle = self.median
            self._spread = MAD_TO_SIGMA * median_of_sorted(sorted([abs(value - middle) for value in self.ordered]))
        return self._spread

    @property
    def wander(self) -> float:
        """A standard deviation that far values count in as well: the larger of `spread` and the mean deviation's."""
        middle = self.median
        mean_deviation = sum([abs(value - middle) for value in self.ordered]) / len(self.values)
        return max(self.spread, ABSOLUTE_DEVIATION_TO_SIGMA * mean_deviation)

    def wanders_within(self, sigma: float) -> bool:
        """Whether `wander` is at most so much, told without computing it; False where it takes a closer look."""
        ordered, count = self.ordered, len(self.values)
        middle, half = median_of_sorted(ordered), count // 2
        surely = 0.999999 * sigma - 1e-12 * max(-ordered[0], ordered[-1])  # so that no rounding decides
        if ABSOLUTE_DEVIATION_TO_SIGMA * (sum(ordered[count - half :]) - sum(ordered[:half])) > surely * count:
            return False
        reach = surely / MAD_TO_SIGMA
        return bisect_left(ordered, middle + reach) - bisect_right(ordered, middle - reach) > half

    def _accept(self, value: float) -> None:
        ordered = self._sorted
        if ordered is not None:
            if self._is_asked:
                if len(self.values) == self.window:
                    del ordered[bisect_left(ordered, self.values[0])]
                insort(ordered, value)
                self._is_asked = False
            else:  # nobody looks at every value: sorted when somebody does
                self._sorted = None
        self.values.append(value)
        self._spread = None

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        super().load_state(state)
        self._sorted = self._spread = None


@dataclass(eq=False)
class NewLevel(Stateful):
    """When a breach has lasted so long that its level is the normal one.

    Attributes:
        accept_after: breaches in a row; None for never.
        former: where the breach is over that lasted until its level was accepted.
    """

    accept_after: int | None
    beyond: list[float] = remembered(list)
    former: float | None = remembered()

    def add(self, value: float, back: float, baseline: Baseline) -> bool:
        """Take a breach, and let the baseline begin anew where it is one too many; True then.

        Args:
            value: what was breached.
            back: where the breach would be over.
            baseline: of the values.
        """
        baseline.freeze()
        if self.accept_after is None:
            return False
        self.beyond.append(value)
        if len(self.beyond) < self.accept_after:
            return False
        self.former = back if self.former is None else self.former
        baseline.restart(self.beyond)
        self.beyond = []
        return True

    def is_back(self, value: float, sign: float) -> bool:
        """Whether the value has left the level that was accepted."""
        if self.former is not None and sign * (value - self.former) <= 0:
            self.former = None
        return self.former is None


@dataclass(eq=False)
class Start(Stateful):
    """The median of those first values that are like the ones before them.

    The first is measured before any update and is the start already; the next ones make it more exact. One that is
    unlike it counts for nothing: neither an early fault nor a dip that recovers moves the start.

    Attributes:
        early: how many values are looked at.
        value: None before the first.
    """

    early: int
    first: list[float] = remembered(list)
    left: int = remembered(0)
    value: float | None = remembered()

    @property
    def is_known(self) -> bool:
        """Whether the first values are over."""
        return self.value is not None and not self.first

    def is_like(self, value: float, middle: float) -> bool:
        """Whether it is within `ALIKE` times the start, or nearer than `middle`; any is if that is not above 0."""
        start = self.value
        if start is None or start <= 0.0:
            return True
        factor = max(ALIKE, middle / start, start / middle if middle > 0.0 else 1.0)
        return start / factor <= value <= start * factor

    def add(self, value: float, is_like: bool = True) -> None:
        """Take a value of the start."""
        self.left += not is_like
        if is_like:
            self.first.append(value)
            self.value = median_of_sorted(sorted(self.first))
        if len(self.first) + self.left >= self.early:
            self.first = []


@dataclass(eq=False)
class Change(Stateful):
    """Exponential mean against the mean of the first values; the noise is that of how the series bends.

    A trend does not bend, so that a series may climb as fast as it likes, from its first value on.

    Args:
        early: first values that make up the start.
        span: observations of the exponential mean.
        growing: share of all observations so far that the mean spans where that is more, up to `memory`: a long run can
            afford to look twice.
        memory: observations over which the noise is averaged.
    """

    early: int = 8
    span: float = 5.0
    memory: int = 100
    growing: float = 0.0
    count: int = remembered(0)
    start: float = remembered(0.0)
    mean: float = remembered(0.0)
    noise: float = remembered(0.0)
    recent: deque[float] = remembered(lambda: deque(maxlen=LAG_VALUES))
    moves: int = remembered(0)
    moved: float = remembered(0.0)
    moved_square: float = remembered(0.0)

    def add(self, value: float) -> None:
        """Take a value."""
        self.count = count = self.count + 1
        recent, memory = self.recent, self.memory
        if count == 1:
            self.mean = value
        if count > 2:
            bend = abs(value - 2.0 * recent[-1] + recent[-2])
            self.noise += (BEND_TO_SIGMA * bend - self.noise) / (count - 2 if count - 2 < memory else memory)
        if len(recent) == LAG_VALUES:
            self.moves += 1
            weight = 1.0 / (self.moves if self.moves < memory else memory)
            move = value - recent[0] - self.moved
            bound = FARTHEST * self.noise  # a step of the level is no noise
            size = abs(move)
            self.moved_square += weight * ((size if size < bound else bound) ** 2 - self.moved_square)
            self.moved += weight * move
        recent.append(value)
        if count <= self.early:
            self.start += (value - self.start) / count
        span = self.span if self.growing == 0.0 else max(self.span, min(self.growing * count, memory))
        self.mean += 2.0 / (span + 1.0) * (value - self.mean)

    @property
    def change(self) -> float | None:
        """The smoothed value less the start, None before the start is known."""
        return self.mean - self.start if self.count > self.early else None

    @property
    def wander(self) -> float:
        """The noise's standard deviation where values follow one another (autocorrelation).

        Neighbours are then alike, so that single values stay near the mean of the last few, and their deviation from it
        tells too little. Values `LAG_VALUES` apart are not alike; what they differ by on average is the trend, not
        noise.
        """
        return max(self.noise, min(math.sqrt(self.moved_square / 2.0), MOST_ALIKE * self.noise))

    @property
    def sigmas(self) -> float | None:
        """The same in standard deviations of the noise."""
        change = self.change
        if change is None:
            return None
        if (wander := self.wander) > 0:
            return change / wander
        return 0.0 if change == 0 else (MANY_SIGMAS if change > 0 else -MANY_SIGMAS)
