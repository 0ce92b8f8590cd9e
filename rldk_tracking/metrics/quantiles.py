"""Quantiles of a few numbers, and a number for each layer as a few series."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

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
