"""A number for each layer as a few series: quantiles and extremes."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

QUANTILES = {"p10": 0.1, "p50": 0.5, "p90": 0.9}


def spread(prefix: str, values: Iterable[float], *, extremes: bool = True) -> dict[str, float]:
    """Quantiles (linear interpolation), with the extremes; empty without a finite value."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return {}
    points = dict(zip(QUANTILES, np.quantile(finite, list(QUANTILES.values())), strict=True))
    if extremes:
        points |= {"max": max(finite), "min": min(finite)}
    return {f"{prefix}/{name}": float(value) for name, value in points.items()}
