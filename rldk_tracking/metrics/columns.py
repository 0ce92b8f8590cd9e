"""From (B, T) tensors to columns, one number a completion, on the device that holds the tensors.

Every metric group reduces its tensors to a few such columns, so that
- a batch that is spread over ranks is the concatenation of the ranks' tables, and no mean of per-rank ratios occurs;
- one small copy to the host serves all groups, and what follows is numpy in float64 (`rldk_tracking.metrics.table`).
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from rldk_tracking.metrics.table import moment_names, tail_length


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
