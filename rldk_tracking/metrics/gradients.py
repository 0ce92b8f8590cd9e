"""How the gradient flows: its norm before clipping, per layer, and what is wrong with it.

| key | formula |
|---|---|
| rldk/grad/norm | Euclidean norm over all parameters, before clipping, mean over the optimizer steps |
| rldk/grad/layer_norm/{p10,p50,p90,max,min} | over layers, of each layer's norm |
| rldk/grad/layers_without | layers in which no parameter has a gradient other than exactly 0 |
| rldk/nan/gradients | gradient tensors with a NaN or an infinity |
| rldk/grad/norm_clipped_fraction | share of optimizer steps whose norm exceeds the limit that the trainer clips to |
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from rldk_tracking.metrics.layers import Layout, Summary, squares
from rldk_tracking.metrics.quantiles import spread


def measure(parameters: Sequence[Tensor]) -> Tensor:
    """(P,) squares of the norms of the parameters' gradients; 0 where there is none."""
    return squares([parameter.grad for parameter in parameters])


def read(values: Sequence[float], layout: Layout) -> dict[str, float]:
    """The keys of a summary of gradients; empty where no step was measured."""
    summary = Summary.read(values, layout)
    if summary is None:
        return {}
    metrics = {
        "rldk/nan/gradients": float(summary.not_finite),
        "rldk/grad/layers_without": float(sum(norm == 0 for norm in summary.layers.values())),
    }
    if summary.total is not None:
        metrics["rldk/grad/norm"] = summary.total
    return metrics | spread("rldk/grad/layer_norm", summary.layers.values())
