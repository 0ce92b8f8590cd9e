"""Statistics of a table's columns: quantiles and correlations, by numpy alone, since torch takes seconds to import."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Labels = NDArray[np.intp]

QUANTILES = {"p10": 0.1, "p50": 0.5, "p90": 0.9}


def quantiles(values: NDArray[np.float64], shares: Sequence[float]) -> list[float]:
    """With linear interpolation, as `numpy.quantile`, which takes ten times as long for a small array.

    Args:
        values: (n,) with n > 0.
        shares: numbers in [0, 1].

    >>> quantiles(np.array([3.0, 1.0, 2.0]), [0.5, 0.75])
    [2.0, 2.5]
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
    """Quantiles (linear interpolation), with the extremes; empty without a finite value.

    >>> spread("size", [3.0, 1.0, 2.0, math.nan], extremes=False)
    {'size/p10': 1.2, 'size/p50': 2.0, 'size/p90': 2.8}
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return {}
    points = dict(zip(QUANTILES, quantiles(np.array(finite), list(QUANTILES.values())), strict=True))
    if extremes:
        points |= {"max": max(finite), "min": min(finite)}
    return {f"{prefix}/{name}": value for name, value in points.items()}


SMALL_GROUP = 16
"""Rows of a group up to which comparing all pairs is faster than sorting."""


def pearson(first: Array, second: Array) -> float | None:
    """Product-moment correlation; None where either has no spread or fewer than two completions have both.

    >>> pearson(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, np.nan]))
    1.0
    """
    both = np.isfinite(first) & np.isfinite(second)
    return _whole_pearson(first[both], second[both])


def spearman(first: Array, second: Array) -> float | None:
    """Correlation of the ranks, ties sharing their mean rank as in `scipy.stats.spearmanr`; None as for Pearson's.

    >>> spearman(np.array([1.0, 2.0, 3.0]), np.array([1.0, 4.0, 9.0]))
    1.0
    """
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

    >>> labels = np.array([0, 0, 1, 1])
    >>> grouped_spearman(np.array([1.0, 2.0, 1.0, 2.0]), np.array([5.0, 9.0, 9.0, 5.0]), labels).tolist()
    [1.0, -1.0]
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
    """`grouped_ranks` of one group.

    >>> ranks(np.array([5.0, 1.0, 5.0])).tolist()
    [2.5, 1.0, 2.5]
    """
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


class ResistantSlope:
    """Slope through the medians of the first and the last third of a window (Tukey 1977, Exploratory Data Analysis).

    A single jump, such as the first batch of the longest length, moves it only while it lies within the window.

    Args:
        window: points that are kept.
        least: points below which there is no slope.

    >>> slope = ResistantSlope()
    >>> for step in range(30):
    ...     slope.add(step, 2.0 * step + (100.0 if step == 15 else 0.0))
    >>> slope.value()
    2.0
    """

    def __init__(self, window: int = 99, least: int = 21) -> None:
        self._points: deque[tuple[float, float]] = deque(maxlen=window)
        self._least = least

    def add(self, x: float, y: float) -> None:
        """A further point; x must not decrease (where it does, as after a restart, the window begins anew)."""
        if self._points and x < self._points[-1][0]:
            self._points.clear()
        self._points.append((x, y))

    def value(self) -> float | None:
        """Change of y per unit of x; None with too few points, or where x stood still."""
        count = len(self._points)
        if count < self._least:
            return None
        points, third = list(self._points), count // 3
        left, right = zip(*points[:third], strict=True), zip(*points[-third:], strict=True)
        x0, y0 = (statistics.median(values) for values in left)
        x1, y1 = (statistics.median(values) for values in right)
        return (y1 - y0) / (x1 - x0) if x1 > x0 else None
