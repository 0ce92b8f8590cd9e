"""From (B, T) tensors to columns, one number a completion, and from the columns of all ranks to the table of a step.

Every metric group reduces its tensors to a few columns, on the device that holds the tensors, so that
- a batch that is spread over ranks is the concatenation of the ranks' tables, and no mean of per-rank ratios occurs;
- one small copy to the host serves all groups, and what follows is numpy in float64, in a `Table`.

What does not decompose by completion, the high quantiles over tokens, travels as a *tail*: the largest values of a
rank, sorted, from which the quantile over all ranks follows exactly or is left out.

Merging each completion's count, mean and sum of squared deviations is exact for any split of the batch over ranks, and
does not cancel where the mean is far larger than the spread, as sums of squares do (Chan, Golub and LeVeque 1983,
"Algorithms for computing the sample variance"). Standard deviations are sample standard deviations (n - 1 in the
denominator) in every group, as TRL logs its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rldk_tracking.metrics.statistics import Array

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


def precise(tensor: Tensor) -> Tensor:
    """In float64 where the device has it (Apple's does not), else in float32: sums must not depend on the order."""
    return tensor.to(torch.float32 if tensor.device.type == "mps" else torch.float64)


def where_masked(values: Tensor, mask: Tensor, other: float = 0.0) -> Tensor:
    """(B, T) The values of the mask's tokens, `other` elsewhere, whatever stands there, NaN too.

    >>> where_masked(torch.tensor([[1.0, math.nan]]), torch.tensor([[1, 0]])).tolist()
    [[1.0, 0.0]]
    """
    return torch.where(mask.bool(), values, _scalar(other, values.dtype, values.device))


@lru_cache(maxsize=32)
def _scalar(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """() made once on the device; `torch.where` would make one for each call."""
    return torch.full((), value, dtype=dtype, device=device)


def count_of(mask: Tensor) -> Tensor:
    """(B,) How many tokens of a bool mask are True; in int32, which is twice as fast on the host."""
    return precise(mask.sum(dim=1, dtype=torch.int32))


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """(B,) Sum over the tokens of the mask. What stands at masked positions, NaN too, does not matter.

    >>> masked_sum(torch.tensor([[1.0, 2.0, math.nan]]), torch.tensor([[1, 1, 0]])).tolist()
    [3.0]
    """
    return precise(where_masked(values, mask)).sum(dim=1)


def square_sum(values: Tensor) -> Tensor:
    """(B,) Sum of squares over tokens, without a (B, T) tensor of them."""
    norm: Tensor = torch.linalg.vector_norm(values, dim=1)
    return norm.square()


def highest(values: Tensor) -> Tensor:
    """(B,) The largest value over tokens, NaN where one of them is NaN, -inf where there is no token.

    >>> highest(torch.tensor([[1.0, 3.0]])).tolist()
    [3.0]
    """
    if values.shape[1] == 0:
        return precise(values.new_full((len(values),), -math.inf))
    return precise(values.amax(dim=1))


def moment_columns(prefix: str, values: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """(B,) count, mean and sum of squared deviations over the tokens of the mask; the mean of none is NaN."""
    count = count_of(mask.bool())
    values = precise(values)
    mean = where_masked(values, mask).sum(dim=1) / count
    deviation = square_sum(where_masked(values - mean[:, None], mask))
    return dict(zip(moment_names(prefix), (count, mean, deviation), strict=True))


def tail_of(values: Tensor, mask: Tensor, capacity: int | None = None) -> Tensor:
    """The largest values of the mask's tokens, descending, padded with -inf; the length follows from shapes alone.

    Args:
        values: (B, T).
        mask: (B, T).
        capacity: how many to keep; by default all that a 99th percentile of these values needs. Among several ranks
            the largest values may all lie on one, so a rank that shares its tail keeps what there is space for.

    >>> tail_of(torch.tensor([[1.0, 4.0], [3.0, 2.0]]), torch.tensor([[1, 0], [1, 1]])).tolist()
    [3.0, 2.0, 1.0]
    """
    flat = where_masked(precise(values), mask, -math.inf).flatten()
    return torch.topk(flat, tail_length(flat.numel()) if capacity is None else min(flat.numel(), capacity)).values
