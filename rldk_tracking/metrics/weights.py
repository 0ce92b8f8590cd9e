"""The weights that are trained: their norm, and whether they are numbers.

| key | formula |
|---|---|
| rldk/weight/norm | Euclidean norm over all trained parameters |
| rldk/weight/layer_norm/{p10,p50,p90,max,min} | over layers, of each layer's norm |
| rldk/nan/weights | weight tensors with a NaN or an infinity |
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from rldk_tracking.metrics.layers import Layout, Summary, has_norm, squares
from rldk_tracking.metrics.quantiles import spread


def measure(parameters: Sequence[Tensor]) -> Tensor:
    """(P,) squares of the parameters' norms."""
    return squares([parameter if has_norm(parameter) else None for parameter in parameters])


def read(values: Sequence[float], layout: Layout) -> dict[str, float]:
    """The keys of a summary of weights; empty where no step was measured."""
    summary = Summary.read(values, layout)
    if summary is None:
        return {}
    metrics = {"rldk/nan/weights": float(summary.not_finite)}
    if summary.total is not None:
        metrics["rldk/weight/norm"] = summary.total
    return metrics | spread("rldk/weight/layer_norm", summary.layers.values())


def not_finite(parameters: Sequence[Tensor]) -> Tensor:
    """Number of tensors with a NaN or an infinity, a scalar on their device."""
    return (~measure(parameters).isfinite()).sum()
