"""The numbers of one step, a row a completion, merged over ranks: numpy in float64, and no torch.

What does not decompose by completion, the high quantiles over tokens, travels as a *tail*: the largest values of a
rank, sorted, from which the quantile over all ranks follows exactly or is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Labels = NDArray[np.intp]

TAIL_SHARE = 0.01
"""Tails hold the largest hundredth of the tokens: enough for a 99th percentile."""


@dataclass(frozen=True)
class Tail:
    """The largest values over tokens, in any order, and how many values there were.

    `floor` is the largest value of which a rank may have held more: quantiles at or below it are not exact.

    >>> Tail(np.array([9.0, 7.0, 8.0]), count=3).quantile(0.5)
    8.0
    """

    values: Array
    count: int
    floor: float = -math.inf

    def quantile(self, q: float) -> float | None:
        """Linear interpolation as `numpy.quantile`; None where there are no values or the tail is too short."""
        if self.count == 0:
            return None
        position = (self.count - 1) * (1.0 - q)  # from the largest downwards
        index = len(self.values) - 1 - math.ceil(position)
        if index < 0:
            return None
        parted = np.partition(self.values, index)
        lower = float(parted[index])
        if lower < self.floor:
            return None
        upper = float(parted[index + 1 :].min()) if position % 1 else lower
        weight = position % 1
        return upper * (1.0 - weight) + lower * weight


@dataclass(frozen=True)
class Table:
    """Per-sequence statistics of one step over all ranks.

    Attributes:
        columns: name to (B,) float64; NaN where a completion has no such number. A missing column is not there.
        tails: name to `Tail`.
        names: labels that columns refer to by number, such as the reward functions'.

    >>> table = Table({"sum": np.array([3.0, np.nan]), "tokens": np.array([2.0, 5.0])})
    >>> table.ratio("sum", "tokens")
    1.5
    """

    columns: Mapping[str, Array] = field(default_factory=dict)
    tails: Mapping[str, Tail] = field(default_factory=dict)
    names: tuple[str, ...] = ()

    def get(self, name: str) -> Array | None:
        """The column, or None where no completion has a value."""
        column = self.columns.get(name)
        if column is None:
            return None
        # Most columns have a value at once, and of a thousand ranks there is much to read.
        return column if np.isfinite(column[:64]).any() or np.isfinite(column).any() else None

    def total(self, name: str) -> float | None:
        """Sum over completions, leaving out those without a value."""
        column = self.get(name)
        return None if column is None else float(np.nansum(column))

    def ratio(self, numerator: str, denominator: str) -> float | None:
        """Sum over sum, over the completions that have both. None where the denominator is zero or a sum infinite."""
        top, bottom = self.get(numerator), self.get(denominator)
        if top is None or bottom is None:
            return None
        both = ~(np.isnan(top) | np.isnan(bottom))
        count, total = float(bottom[both].sum()), float(top[both].sum())
        return total / count if count > 0 and math.isfinite(total) else None


def finite(metrics: Mapping[str, float | None]) -> dict[str, float]:
    """Those that exist and are numbers.

    >>> finite({"a": 0.0, "b": None, "c": math.inf})
    {'a': 0.0}
    """
    return {key: value for key, value in metrics.items() if value is not None and math.isfinite(value)}


def moment_names(prefix: str) -> tuple[str, str, str]:
    """The three columns that `moment_columns` fills."""
    return f"{prefix}/count", f"{prefix}/mean", f"{prefix}/deviation"


def tail_length(tokens: int) -> int:
    """How many of so many values a 99th percentile needs.

    >>> tail_length(1000)
    12
    """
    return min(tokens, math.ceil(TAIL_SHARE * tokens) + 2)


def merge_tails(values: Array, counts: NDArray[np.int64]) -> Tail:
    """One tail out of the ranks'.

    A rank whose count exceeds the finite values that it sent kept some back.

    Args:
        values: (ranks, n) the largest values of each rank, filled up with what is not finite.
        counts: (ranks,) how many values each has.
    """
    finite = np.isfinite(values)
    lowest = values.min(axis=1, initial=math.inf, where=finite)
    cut = (counts > finite.sum(axis=1)) & np.isfinite(lowest)
    kept = values.reshape(-1) if finite.all() else values[finite]
    return Tail(kept, int(counts.sum()), float(lowest[cut].max(initial=-math.inf)))
