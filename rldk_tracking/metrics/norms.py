"""How large gradients and weights are, and which of them are not finite.

Keys, read by `rldk_tracking.metrics.keys`:

    rldk/nan/weights | tensors | optimizer | lower | max over ranks
        Weight tensors that hold a NaN or an infinity; 0 is a measured 0.
        = tensors whose norm is not finite, after the worst of the row's optimizer steps
    rldk/nan/gradients | tensors | optimizer | lower | max over ranks
        Gradient tensors that hold a NaN or an infinity.
        = tensors whose norm is not finite, in the worst of the row's optimizer steps
    rldk/grad/norm | 1 | optimizer
        Length of the gradient, before clipping.
        = Euclidean norm over all parameters, mean over the optimizer steps
    rldk/grad/norm_clipped_fraction | 1 | optimizer | lower
        Share of optimizer steps whose gradient was shortened.
        = steps with a norm above max_grad_norm / steps
    rldk/grad/layer_norm/{p10,p50,p90,max,min} | 1 | optimizer
        Gradient of a layer.
        = {stat}, interpolated linearly, over layers of the norm before clipping, a mean over the optimizer steps
    rldk/grad/layers_without | layers | optimizer | lower | max over ranks
        Layers that are trained but get no gradient.
        = layers whose norm is exactly 0 in all of the row's optimizer steps
    rldk/weight/norm | 1 | optimizer
        Size of the trained weights, after the step.
        = Euclidean norm over all parameters, mean over the optimizer steps
    rldk/weight/layer_norm/{p10,p50,p90,max,min} | 1 | optimizer
        Size of a layer, after the step.
        = {stat}, interpolated linearly, over layers of the norm, a mean over the optimizer steps
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from rldk_tracking.metrics.layers import Layout, Summary, has_norm, squares
from rldk_tracking.metrics.statistics import spread


def gradient_squares(parameters: Sequence[Tensor]) -> Tensor:
    """(P,) squares of the norms of the parameters' gradients; 0 where there is none.

    >>> import torch
    >>> weights = torch.ones(2, requires_grad=True)
    >>> (weights * torch.tensor([3.0, 4.0])).sum().backward()
    >>> gradient_squares([weights]).tolist()
    [25.0]
    """
    return squares([parameter.grad for parameter in parameters])


def read_gradients(values: Sequence[float], layout: Layout) -> dict[str, float]:
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


def weight_squares(parameters: Sequence[Tensor]) -> Tensor:
    """(P,) squares of the parameters' norms."""
    return squares([parameter if has_norm(parameter) else None for parameter in parameters])


def read_weights(values: Sequence[float], layout: Layout) -> dict[str, float]:
    """The keys of a summary of weights; empty where no step was measured."""
    summary = Summary.read(values, layout)
    if summary is None:
        return {}
    metrics = {"rldk/nan/weights": float(summary.not_finite)}
    if summary.total is not None:
        metrics["rldk/weight/norm"] = summary.total
    return metrics | spread("rldk/weight/layer_norm", summary.layers.values())


def not_finite(parameters: Sequence[Tensor]) -> Tensor:
    """Number of tensors with a NaN or an infinity, a scalar on their device.

    >>> import torch
    >>> not_finite([torch.tensor([1.0, float("nan")]), torch.ones(3)]).item()
    1
    """
    return (~weight_squares(parameters).isfinite()).sum()
