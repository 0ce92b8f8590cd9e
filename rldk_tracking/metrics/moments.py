"""Mean and variance over tokens from each completion's count, mean and sum of squared deviations.

Merging those is exact for any split of the batch over ranks, and does not cancel where the mean is far larger than
the spread, as sums of squares do (Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance").
Standard deviations are sample standard deviations (n - 1 in the denominator) in every group, as TRL logs its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from rldk_tracking.metrics.table import Array, Table, count_of, precise, square_sum, where_masked


def moment_names(prefix: str) -> tuple[str, str, str]:
    """The three columns that `moment_columns` fills."""
    return f"{prefix}/count", f"{prefix}/mean", f"{prefix}/deviation"


def moment_columns(prefix: str, values: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """(B,) count, mean and sum of squared deviations over the tokens of the mask; the mean of none is NaN."""
    count = count_of(mask.bool())
    values = precise(values)
    mean = where_masked(values, mask).sum(dim=1) / count
    deviation = square_sum(where_masked(values - mean[:, None], mask))
    return dict(zip(moment_names(prefix), (count, mean, deviation), strict=True))


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
