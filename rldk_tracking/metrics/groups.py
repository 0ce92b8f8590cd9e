"""Groups of completions of one prompt, and which of their scores are the same."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rldk_tracking.metrics.table import Array, Labels

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

    >>> merge_near_ties(np.array([1.0, 1.0 + 1e-8, 2.0]), np.array([0, 0, 0])).tolist()
    [1.0, 1.0, 2.0]
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

    >>> groups = Groups.of(np.array([7.0, 7.0, 9.0, 9.0]), np.array([1.0, 1.0, 0.0, 1.0]))
    >>> groups.size.tolist(), groups.tied.tolist()
    ([2.0, 2.0], [1.0, 0.0])
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
