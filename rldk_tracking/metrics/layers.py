"""Which parameter belongs to which layer, how large gradients and weights are by layer, and which are not finite.

Everything is kept as *squares of norms of single tensors*, (P,) for P parameters, because these add up: over the
tensors of a layer, over the shards of a tensor, over the ranks that hold the shards. One square is not finite exactly
where an element of its tensor is not (or where the tensor's norm exceeds 1.8e19, beyond which float32 has no square:
no optimizer survives that either, so it counts as not finite).

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
    rldk/grad/frozen_fraction | 1 | optimizer
        Share of the model that does not train; in the first row alone, and not of a model with adapters.
        = elements of parameters without requires_grad / elements of all parameters, when training begins
    rldk/weight/norm | 1 | optimizer
        Size of the trained weights, after the step.
        = Euclidean norm over all parameters, mean over the optimizer steps
    rldk/weight/layer_norm/{p10,p50,p90,max,min} | 1 | optimizer
        Size of a layer, after the step.
        = {stat}, interpolated linearly, over layers of the norm, a mean over the optimizer steps
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rldk_tracking.metrics.columns import precise
from rldk_tracking.metrics.layer_names import layer_of, plain_name
from rldk_tracking.metrics.statistics import spread

EXTRA = 3
"""Numbers before the layers' norms in a summary: steps measured, tensors not finite, total norm."""

_FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128)


@dataclass(frozen=True)
class Layout:
    """P parameters, grouped into L layers in the order of first appearance.

    Attributes:
        names: of the P parameters.
        numels: number of elements of each, over all shards.
        layers: names of the L layers.
        index: (P,) the layer of each parameter, on the parameters' device.
        shares: (P,) one over the number of ranks that hold the same elements, where some parameter is sharded;
            sums over ranks of squares times shares are then the squares of the whole. None where nothing is sharded.

    >>> layout = Layout.of([("0.weight", torch.ones(2)), ("0.bias", torch.ones(1)), ("1.weight", torch.ones(3))])
    >>> layout.layers, layout.numels
    (('0', '1'), (2, 1, 3))
    """

    names: tuple[str, ...]
    numels: tuple[int, ...]
    layers: tuple[str, ...]
    index: Tensor
    shares: Tensor | None = None

    @classmethod
    def of(cls, parameters: Iterable[tuple[str, Tensor]]) -> Layout:
        """From (name, tensor) pairs; sharded tensors are `DTensor`s on meshes that span all ranks."""
        pairs = list(parameters)
        layer_names = [layer_of(name) for name, _ in pairs]
        layers = tuple(dict.fromkeys(layer_names))
        number = {layer: position for position, layer in enumerate(layers)}
        device = _device(tensor for _, tensor in pairs)
        shares = None
        if any(is_sharded(tensor) for _, tensor in pairs):
            copies = [_copies(tensor) for _, tensor in pairs]
            shares = 1.0 / precise(torch.tensor(copies, device=device))
        return cls(
            names=tuple(plain_name(name) for name, _ in pairs),
            numels=tuple(tensor.numel() for _, tensor in pairs),
            layers=layers,
            index=torch.tensor([number[layer] for layer in layer_names], dtype=torch.long, device=device),
            shares=shares,
        )

    @property
    def width(self) -> int:
        """Length of what `summarise` returns."""
        return EXTRA + len(self.layers)


def is_sharded(tensor: Tensor) -> bool:
    """True for a `DTensor`, of which this rank holds a part."""
    return hasattr(tensor, "device_mesh") and hasattr(tensor, "placements")


def local(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor, detached, as real floating-point numbers."""
    tensor = tensor.detach()
    if is_sharded(tensor):
        tensor = tensor.to_local()  # type: ignore[attr-defined]
    if tensor.is_sparse:
        tensor = tensor.coalesce().values()
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def has_norm(tensor: Tensor) -> bool:
    """False for integers and for packed formats of quantised weights, of which a norm says nothing."""
    return tensor.dtype in _FLOATING


def local_as_is(tensor: Tensor) -> Tensor:
    """`local` for where no graph is made: a plain tensor comes as it is, without an operation."""
    plain = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.layout == torch.strided
    return tensor if plain and not tensor.dtype.is_complex else local(tensor)


def on(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device. Where it is there already nothing is called."""
    return tensor if tensor.device == device else tensor.to(device)


@torch.no_grad()
def squares(tensors: Sequence[Tensor | None]) -> Tensor:
    """(P,) squares of the Euclidean norms of what this rank holds; 0 for None. One pass, no copy, no waiting.

    A few operations, however many tensors: every operation takes time to start.

    >>> squares([torch.tensor([3.0, 4.0]), None]).tolist()
    [25.0, 0.0]
    """
    present = [local_as_is(tensor) for tensor in tensors if tensor is not None]
    if not present:
        return torch.zeros(len(tensors), dtype=torch.float64)
    device = present[0].device
    dtype = torch.float64 if any(tensor.dtype == torch.float64 for tensor in present) else torch.float32
    norms = iter(torch._foreach_norm(present, 2, dtype))
    zero = torch.zeros((), dtype=dtype, device=device)
    stacked = torch.stack([zero if tensor is None else on(next(norms), device) for tensor in tensors])
    return precise(stacked).square()


def summarise(steps: Tensor, layout: Layout) -> Tensor:
    """(..., L + 3) of the squares of K steps: their number, tensors not finite, mean total norm, mean norm per layer.

    Args:
        steps: (..., K, P) squares, whole ones (summed over shards).

    Means are over the steps with a finite value, NaN where there is none. The number of tensors not finite is that
    of the worst step.
    """
    by_layer = steps.new_zeros(*steps.shape[:-1], len(layout.layers))
    by_layer.index_add_(-1, layout.index.to(steps.device), steps)
    norms = torch.cat([by_layer.sum(dim=-1, keepdim=True), by_layer], dim=-1).sqrt()
    means = norms.masked_fill(~norms.isfinite(), math.nan).nanmean(dim=-2)
    worst = (~steps.isfinite()).sum(dim=-1).amax(dim=-1, keepdim=True).to(steps.dtype)
    return torch.cat([torch.full_like(worst, steps.shape[-2]), worst, means], dim=-1)


def summarise_all(steps: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """`summarise` of several quantities: those of equally many steps, as a rule all, at the same time.

    Args:
        steps: quantity to its (K, P) squares.
    """
    found: dict[str, Tensor] = {}
    for count in {len(squares) for squares in steps.values()}:
        names = [name for name, squares in steps.items() if len(squares) == count]
        summaries = summarise(torch.stack([on(steps[name], layout.index.device) for name in names]), layout)
        found |= dict(zip(names, summaries.unbind(), strict=True))
    return found


def over_ranks(steps: Mapping[str, Tensor], shares: Tensor) -> dict[str, Tensor]:
    """(K, P) squares of whole parameters, of which this rank holds shards. A collective: every rank must call it."""
    flat = torch.cat([(squares * shares).flatten() for squares in steps.values()])
    torch.distributed.all_reduce(flat)
    pieces = torch.split(flat, [squares.numel() for squares in steps.values()])
    return {name: piece.reshape(-1, len(shares)) for name, piece in zip(steps, pieces, strict=True)}


@dataclass(frozen=True)
class Summary:
    """A summary on the host. `total` and the layers' norms are None where no step had a finite one."""

    steps: int
    not_finite: int
    total: float | None
    layers: dict[str, float]

    @classmethod
    def read(cls, values: Sequence[float], layout: Layout) -> Summary | None:
        """None where no step was measured."""
        if not math.isfinite(values[0]) or values[0] < 1:
            return None
        norms = dict(zip(layout.layers, values[EXTRA : layout.width], strict=True))
        return cls(
            steps=int(values[0]),
            not_finite=int(values[1]),
            total=values[2] if math.isfinite(values[2]) else None,
            layers={layer: norm for layer, norm in norms.items() if math.isfinite(norm)},
        )


def _device(tensors: Iterable[Tensor]) -> torch.device:
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def _copies(tensor: Tensor) -> float:
    """How many ranks hold each element."""
    ranks = torch.distributed.get_world_size()
    if not is_sharded(tensor):
        return float(ranks)
    mesh = tensor.device_mesh  # type: ignore[attr-defined]
    parts = [mesh.size(axis) for axis, place in enumerate(tensor.placements) if not place.is_replicate()]  # type: ignore[attr-defined]
    copies: float = ranks / math.prod(parts)
    return copies


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


def frozen_fraction(model: torch.nn.Module) -> float | None:
    """Share of the model's elements whose requires_grad is off; None where adapters are on it, or it has none.

    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 1), torch.nn.Linear(1, 2).requires_grad_(False))
    >>> frozen_fraction(model)
    0.5
    """
    adapted = any(hasattr(module, "peft_config") for module in model.modules())
    sizes = {name: (weight.numel(), weight.requires_grad) for name, weight in model.named_parameters()}
    total = sum(size for size, _ in sizes.values())
    if adapted or not total or any("lora_" in name for name in sizes):
        return None
    return sum(size for size, trains in sizes.values() if not trains) / total


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
