"""Statistics of a table's columns: moments over tokens, quantiles, correlations, groups of completions of one prompt.

Merging each completion's count, mean and sum of squared deviations is exact for any split of the batch over ranks, and
does not cancel where the mean is far larger than the spread, as sums of squares do (Chan, Golub and LeVeque 1983,
"Algorithms for computing the sample variance"). Standard deviations are sample standard deviations (n - 1 in the
denominator) in every group, as TRL logs its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rldk_tracking.metrics.table import Array, Table, moment_names


@dataclass(frozen=True, slots=True)
class Moments:
    """Of `count` numbers: their mean and the sum of squared deviations from it."""

    count: float
    mean: float
    deviation: float

    @property
    def constant(self) -> bool:
        """Whether the numbers are all the same, as far as double precision can tell."""
        return self.deviation <= self.count * (1e-12 * self.mean) ** 2

    @property
    def std(self) -> float | None:
        """Sample standard deviation; None of fewer than two numbers."""
        return math.sqrt(self.deviation / (self.count - 1)) if self.count > 1 else None


def merge_moments(table: Table, prefix: str) -> Moments | None:
    """The moments over all completions that have them; None where there are none, or where they are infinite."""
    columns = [table.get(name) for name in moment_names(prefix)]
    counts, means, deviations = (column if column is not None else np.empty(0) for column in columns)
    if not len(counts) == len(means) == len(deviations) > 0:
        return None
    known = ~np.isnan(means)
    return of_parts(counts[known], means[known], deviations[known])


def of_parts(counts: Array, means: Array, deviations: Array) -> Moments | None:
    """Moments of a whole from those of its parts."""
    if len(counts) == 0:
        return None
    count = float(counts.sum())
    mean = float((counts * means).sum()) / count
    if not math.isfinite(mean):
        return None
    deviation = float((deviations + counts * np.square(means - mean)).sum())
    return Moments(count, mean, deviation) if math.isfinite(deviation) else None


QUANTILES = {"p10": 0.1, "p50": 0.5, "p90": 0.9}


def quantiles(values: NDArray[np.float64], shares: Sequence[float]) -> list[float]:
    """With linear interpolation, as `numpy.quantile`, which takes ten times as long for a small array.

    Args:
        values: (n,) with n > 0.
        shares: numbers in [0, 1].
    """
    ordered = np.sort(values)
    found = []
    for share in shares:
        position = (len(ordered) - 1) * share
        below = math.floor(position)
        low, high, weight = float(ordered[below]), float(ordered[math.ceil(position)]), position - below
        found.append(low + (high - low) * weight if weight < 0.5 else high - (high - low) * (1 - weight))
    return found


def spread(prefix: str, values: Iterable[float], *, extremes: bool = True) -> dict[str, float]:
    """Quantiles (linear interpolation), with the extremes; empty without a finite value."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return {}
    points = dict(zip(QUANTILES, quantiles(np.array(finite), list(QUANTILES.values())), strict=True))
    if extremes:
        points |= {"max": max(finite), "min": min(finite)}
    return {f"{prefix}/{name}": value for name, value in points.items()}


Labels = NDArray[np.intp]

SMALL_GROUP = 16
"""Rows of a group up to which comparing all pairs is faster than sorting."""


def pearson(first: Array, second: Array) -> float | None:
    """Product-moment correlation; None where either has no spread or fewer than two completions have both."""
    both = np.isfinite(first) & np.isfinite(second)
    return _whole_pearson(first[both], second[both])


def spearman(first: Array, second: Array) -> float | None:
    """Correlation of the ranks, ties sharing their mean rank as in `scipy.stats.spearmanr`; None as for Pearson's."""
    both = np.isfinite(first) & np.isfinite(second)
    return _whole_pearson(ranks(first[both]), ranks(second[both]))


def _whole_pearson(first: Array, second: Array) -> float | None:
    """`grouped_pearson` of one group, in a tenth of its time."""
    if len(first) == 0 or first.min() == first.max() or second.min() == second.max():
        return None
    x, y = ((values - values.min()) / (values.max() - values.min()) for values in (first, second))
    x, y = x - x.mean(), y - y.mean()
    with np.errstate(invalid="ignore"):
        value = float(np.clip(_product(x, y) / np.sqrt(_product(x, x) * _product(y, y)), -1.0, 1.0))
    return value if np.isfinite(value) else None


def _product(first: Array, second: Array) -> float:
    """The inner product, without BLAS: its threads cost a large batch more time than they save."""
    return float(np.einsum("i,i", first, second))


def grouped_spearman(first: Array, second: Array, labels: Labels) -> Array:
    """One rank correlation for each group of rows, NaN where a group has no spread in either.

    Args:
        first, second: (n,) finite.
        labels: (n,) numbers 0, 1, ... of the groups.
    """
    return grouped_pearson(grouped_ranks(first, labels), grouped_ranks(second, labels), labels)


def grouped_pearson(first: Array, second: Array, labels: Labels) -> Array:
    """One product-moment correlation for each group of rows, NaN where a group has no spread in either."""
    if len(labels) == 0:
        return np.empty(0)
    x, y = _centred(first, labels), _centred(second, labels)
    covariance = np.bincount(labels, weights=x * y)
    spread = np.sqrt(np.bincount(labels, weights=x * x) * np.bincount(labels, weights=y * y))
    with np.errstate(divide="ignore", invalid="ignore"):
        correlation: Array = np.clip(covariance / spread, -1.0, 1.0)
    return correlation


def grouped_ranks(values: Array, labels: Labels) -> Array:
    """The rank of each row among its group's, from 1; rows with the same value share their mean rank."""
    size = _common_size(labels)
    if size is not None and size <= SMALL_GROUP:
        groups = values.reshape(-1, size).T.copy()
        # Twice the rank: 1, and 2 for each lower row and 1 for each equal one.
        doubled = np.ones(groups.shape, dtype=np.uint8)
        for other in groups:
            doubled += other < groups
            doubled += other <= groups
        found: Array = (doubled / 2).T.reshape(-1)
        return found
    order = np.argsort(values)  # with numpy's vectorised sort, which `lexsort` does without
    order = order[np.argsort(labels[order].astype(_smallest(labels)), kind="stable")]
    return _ordered_ranks(values, order, labels)


def ranks(values: Array) -> Array:
    """`grouped_ranks` of one group."""
    return _ordered_ranks(values, np.argsort(values), np.zeros(len(values), dtype=np.uint16))


def _ordered_ranks(values: Array, order: Labels, labels: NDArray[Any]) -> Array:
    """Ranks within groups; `order` (n,) sorts the rows by label and then by value."""
    ordered_values, ordered_labels = values[order], labels[order]
    new_group = np.ones(len(values), dtype=bool)
    new_group[1:] = ordered_labels[1:] != ordered_labels[:-1]
    new_value = new_group.copy()
    new_value[1:] |= ordered_values[1:] != ordered_values[:-1]
    tie = np.cumsum(new_value) - 1
    starts = np.flatnonzero(new_value)
    lengths = np.diff(np.append(starts, len(values)))
    group_starts = np.flatnonzero(new_group)[np.cumsum(new_group) - 1]
    found = np.empty(len(values))
    found[order] = starts[tie] - group_starts + (lengths[tie] + 1) / 2
    return found


def _common_size(labels: Labels) -> int | None:
    """How many rows each group has, where all have as many and the rows of each stand together; else None."""
    if len(labels) == 0:
        return None
    size = int(np.argmax(labels != labels[0])) or len(labels)
    if len(labels) % size:
        return None
    groups = labels.reshape(-1, size)
    apart = len(groups) == 1 or bool((groups[1:, 0] > groups[:-1, 0]).all())
    return size if apart and bool((groups == groups[:, :1]).all()) else None


def _smallest(labels: Labels) -> type[np.unsignedinteger[Any]]:
    """Numbers of two bytes are sorted by radix, in a fraction of the time."""
    return np.uint16 if len(labels) == 0 or labels.max() < 2**16 else np.uint64


def _centred(values: Array, labels: Labels) -> Array:
    """Minus the group's mean, in units of the group's range; exact zeros where all of a group are the same."""
    counts = np.bincount(labels)
    lowest, highest = np.full(len(counts), np.inf), np.full(len(counts), -np.inf)
    np.minimum.at(lowest, labels, values)
    np.maximum.at(highest, labels, values)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        scaled = (values - lowest[labels]) / (highest - lowest)[labels]
        means = np.bincount(labels, weights=scaled) / counts
    return np.where((highest > lowest)[labels], scaled - means[labels], 0.0)


TIE_TOLERANCE = 1e-8
"""Scores whose standard deviation is at most this count as equal, as in TRL's `frac_reward_zero_std` (isclose to 0)."""
RELATIVE_TIE = 1e-6
"""Scores count as equal too where they differ by at most this share of the largest magnitude among them. A weighted sum
of rewards is one in float32, whose last bit is 6e-8 of a number: equal sums made of different parts may differ in it,
and TRL's tolerance, which is absolute, lets those pass that are larger than about 0.1."""


def merge_near_ties(values: Array, labels: Labels) -> Array:
    """The same values, but those of a group that are apart by `RELATIVE_TIE` of its largest magnitude made equal.

    Args:
        values: (n,) finite.
        labels: (n,) numbers 0, 1, ... of the groups.
    """
    if len(values) == 0:
        return values
    size = np.zeros(int(labels.max()) + 1)
    np.maximum.at(size, labels, np.abs(values))
    order = np.lexsort((values, labels))
    ordered, group = values[order], labels[order]
    starts = np.ones(len(values), dtype=bool)
    starts[1:] = (group[1:] != group[:-1]) | (np.diff(ordered) > RELATIVE_TIE * size[group[1:]])
    merged = np.empty_like(values)
    merged[order] = ordered[np.flatnonzero(starts)[np.cumsum(starts) - 1]]
    return merged


@dataclass(frozen=True)
class Groups:
    """The groups of n completions that have a finite value.

    Attributes:
        labels: (n,) numbers 0, 1, ... of the groups.
        values: (n,) finite.
    """

    labels: Labels
    values: Array

    @classmethod
    def of(cls, group_ids: Array, values: Array) -> Groups:
        """Sort rows into groups, leaving out those without a group or a value."""
        known = np.isfinite(group_ids) & np.isfinite(values)
        labels = np.unique(group_ids[known], return_inverse=True)[1].reshape(-1)
        return cls(labels, values[known])

    @cached_property
    def size(self) -> Array:
        """How many completions each group has."""
        return np.bincount(self.labels).astype(np.float64)

    @cached_property
    def lowest(self) -> Array:
        """Each group's lowest value."""
        lowest = np.full(len(self.size), np.inf)
        np.minimum.at(lowest, self.labels, self.values)
        return lowest

    @cached_property
    def highest(self) -> Array:
        """Each group's highest value."""
        highest = np.full(len(self.size), -np.inf)
        np.maximum.at(highest, self.labels, self.values)
        return highest

    @cached_property
    def std(self) -> Array:
        """Each group's sample standard deviation, NaN in groups of one, exactly 0 where all values are the same."""
        size = self.size
        means = np.bincount(self.labels, weights=self.values) / size
        squares = np.bincount(self.labels, weights=np.square(self.values - means[self.labels]))
        squares[self.highest == self.lowest] = 0.0
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.sqrt(squares / np.where(size > 1, size - 1, np.nan))

    @cached_property
    def tied(self) -> Array:
        """1.0 where all completions of a group have the same value, 0.0 where not, NaN in groups of one."""
        size = np.maximum(np.abs(self.lowest), np.abs(self.highest))
        same = (self.std <= TIE_TOLERANCE) | (self.highest - self.lowest <= RELATIVE_TIE * size)
        return np.where(np.isnan(self.std), np.nan, same)
