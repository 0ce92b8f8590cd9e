"""Statistics of the groups that completions of one prompt form, each an array with one entry for each group."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rldk_tracking.metrics.correlation import Labels
from rldk_tracking.metrics.table import Array

TIE_TOLERANCE = 1e-8
"""Scores whose standard deviation is at most this count as equal, as in TRL's `frac_reward_zero_std` (isclose to 0)."""


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
        std = self.std
        return np.where(np.isnan(std), np.nan, std <= TIE_TOLERANCE)
