"""Which parameter belongs to which layer, sums over layers, and which few layers get a series of their own.

Everything is kept as *squares of norms of single tensors*, (P,) for P parameters, because these add up: over the
tensors of a layer, over the shards of a tensor, over the ranks that hold the shards. One square is not finite exactly
where an element of its tensor is not (or where the tensor's norm exceeds 1.8e19, beyond which float32 has no square:
no optimizer survives that either, so it counts as not finite).

Keys, read by `rldk_tracking.metrics.keys`:

    rldk/grad/layer/<layer> | 1 | optimizer
        Gradient of one of the few layers farthest from the rest, before clipping.
        = Euclidean norm, mean over the optimizer steps; of the layers with the largest running mean of |log(norm /
        median over layers)|
    rldk/update/layer_ratio/<layer> | 1 | optimizer
        How far one optimizer step moves one of the few layers farthest from the rest.
        = |change| / |weights|, as of rldk/update/ratio

A hundred layers as a hundred series help nobody, and those farthest from the rest would be different ones in each step.
So a layer that is shown stays shown: FIRST layers are chosen once SETTLED measurements have been seen, and the rest of
the SHOWN places is kept for layers that go astray later. All layers are in the quantiles, and in the pictures that go
with each checkpoint. Dots in names become underscores, since a dot is a path to W&B.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rldk_tracking.metrics.columns import precise
from rldk_tracking.metrics.layer_names import layer_of, plain_name

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


SHOWN, FIRST = 8, 4
"""Places, and those that are taken at the beginning."""
SETTLED = 5
"""Measurements before the first are chosen: in the first step half of an adapter has no gradient yet."""
MEMORY = 0.8
"""Weight of the past in a layer's distance."""
FARTHEST = 20.0
"""Distance of a layer at 0, and the largest that counts: e^20."""
ASTRAY = math.log(4.0)
"""How much farther than a layer that is shown another must be to take one of the places that are left."""


class FarthestLayers:
    """Chooses layers by the running mean of |log(value / median over layers)|. Memory: one number a layer.

    >>> layers = FarthestLayers()
    >>> for _ in range(SETTLED):
    ...     shown = layers.take({str(number): 1.0 for number in range(20)} | {"20": 9.0})
    >>> "20" in shown, len(shown)
    (True, 4)
    """

    def __init__(self) -> None:
        self._distances: dict[str, float] = {}
        self._seen = 0
        self.shown: list[str] = []

    def take(self, values: Mapping[str, float]) -> dict[str, float]:
        """What is shown of one measurement: layer to value. A value that is not a number >= 0 is left out."""
        known = {layer: value for layer, value in values.items() if math.isfinite(value) and value >= 0}
        positive = [value for value in known.values() if value > 0]
        if not positive:
            return {layer: known[layer] for layer in self.shown if layer in known}
        middle = math.log(statistics.median(positive))
        for layer, value in known.items():
            distance = min(FARTHEST, abs(math.log(value) - middle)) if value > 0 else FARTHEST
            before = self._distances.get(layer, distance)
            self._distances[layer] = MEMORY * before + (1 - MEMORY) * distance
        self._seen += 1
        if self._seen >= SETTLED:
            self._choose()
        return {layer: known[layer] for layer in self.shown if layer in known}

    def _choose(self) -> None:
        by_distance = sorted(self._distances, key=lambda layer: -self._distances[layer])
        if len(by_distance) <= SHOWN:
            self.shown = list(self._distances)
        elif not self.shown:
            self.shown = by_distance[:FIRST]
        else:
            least = min(self._distances[layer] for layer in self.shown)
            astray = [layer for layer in by_distance if self._distances[layer] > least + ASTRAY]
            new = [layer for layer in astray if layer not in self.shown]
            self.shown += new[: SHOWN - len(self.shown)]


def series(prefix: str, values: Mapping[str, float]) -> dict[str, float]:
    """Layer to value as keys."""
    return {f"{prefix}/{layer.replace('.', '_')}": value for layer, value in values.items()}
