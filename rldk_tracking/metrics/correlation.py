"""Pearson's and Spearman's correlation of two columns, over the completions that have both, whole or group by group."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rldk_tracking.metrics.table import Array

Labels = NDArray[np.intp]


def pearson(first: Array, second: Array) -> float | None:
    """Product-moment correlation; None where either has no spread or fewer than two completions have both."""
    both = np.isfinite(first) & np.isfinite(second)
    values = grouped_pearson(first[both], second[both], np.zeros(int(both.sum()), dtype=np.intp))
    return float(values[0]) if len(values) and np.isfinite(values[0]) else None


def spearman(first: Array, second: Array) -> float | None:
    """Correlation of the ranks, ties sharing their mean rank as in `scipy.stats.spearmanr`; None as for Pearson's."""
    both = np.isfinite(first) & np.isfinite(second)
    values = grouped_spearman(first[both], second[both], np.zeros(int(both.sum()), dtype=np.intp))
    return float(values[0]) if len(values) and np.isfinite(values[0]) else None


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
    order = np.lexsort((values, labels))
    ordered_values, ordered_labels = values[order], labels[order]
    new_group = np.ones(len(values), dtype=bool)
    new_group[1:] = ordered_labels[1:] != ordered_labels[:-1]
    new_value = new_group.copy()
    new_value[1:] |= ordered_values[1:] != ordered_values[:-1]
    tie = np.cumsum(new_value) - 1
    starts = np.flatnonzero(new_value)
    lengths = np.diff(np.append(starts, len(values)))
    group_starts = np.flatnonzero(new_group)[np.cumsum(new_group) - 1]
    ranks = np.empty(len(values))
    ranks[order] = starts[tie] - group_starts + (lengths[tie] + 1) / 2
    return ranks


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
