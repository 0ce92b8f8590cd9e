"""LoRA's pairs among the parameters of an optimizer, and how far a step moves the weights that they make.

Read from PEFT's layers (peft.tuners.lora.layer.LoraLayer: `lora_A`, `lora_B`, `scaling`, `base_layer`). A pair is left
out where the weights are not W + scale * B A, or W is not at hand: DoRA, embeddings and convolutions, quantised or
sharded weights. There the ratio of an update stays that of the two matrices.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rldk_tracking.metrics.layers import Layout, has_norm, is_sharded, on, squares
from rldk_tracking.metrics.updates import Pair, change_square


@dataclass(frozen=True)
class AdapterPair:
    """Two parameters of an optimizer that change the weights of a module together.

    Attributes:
        first, second: which of the parameters are A and B.
        scale: what their product is multiplied with.
        base: the weights that they change.
    """

    first: int
    second: int
    scale: float
    base: Tensor


def adapters_of(model: torch.nn.Module | None, parameters: Sequence[Tensor], layout: Layout) -> Adapters | None:
    """The pairs of a model that an optimizer trains, None where there are none.

    Args:
        model: its modules are looked through; None where it is not known.
        parameters: the optimizer's.
        layout: of these parameters.
    """
    if model is None or layout.shares is not None:
        return None
    places = {id(parameter): index for index, parameter in enumerate(parameters)}
    pairs = [pair for module in model.modules() for pair in _pairs_of(module, places)]
    return Adapters(pairs, parameters, layout) if pairs else None


class Adapters:
    """Pairs among parameters, and their change in a step."""

    def __init__(self, pairs: Sequence[AdapterPair], parameters: Sequence[Tensor], layout: Layout) -> None:
        self._pairs = pairs
        self._parameters = parameters
        self._layout = layout
        self._base: list[Tensor] = []
        self._before: list[Pair] = []

    def keep(self) -> None:
        """Copy the pairs, to be compared after the step."""
        self._before = [(a.detach().clone(), b.detach().clone()) for a, b in map(self._matrices, self._pairs)]

    def squares(self) -> Tensor | None:
        """(P,) in B's place of each pair |change of the weights|^2 / |weights of the layer's modules|^2; 0 elsewhere.

        Summed over a layer it is the square of the layer's ratio. None where nothing was kept.
        """
        if not self._before:
            return None
        device = self._layout.index.device
        found = torch.zeros(len(self._parameters), dtype=torch.float64, device=device)
        self._base = self._base or self._weights_of_layers()
        for pair, before, base in zip(self._pairs, self._before, self._base, strict=True):
            change = change_square(before, self._matrices(pair)) * pair.scale**2
            found[pair.second] = torch.where(base > 0, on(change, device) / base, 0.0)
        self._before = []
        return found

    def _matrices(self, pair: AdapterPair) -> Pair:
        return self._parameters[pair.first], self._parameters[pair.second]

    def _weights_of_layers(self) -> list[Tensor]:
        """For each pair, the square of the norm of all base weights in its layer. They do not change in training."""
        layout = self._layout
        layers = layout.index[[pair.second for pair in self._pairs]]
        norms = on(squares([pair.base for pair in self._pairs]), layout.index.device).double()
        totals = torch.zeros(len(layout.layers), dtype=torch.float64, device=layout.index.device)
        return list(totals.index_add_(0, layers, norms)[layers])


def _pairs_of(module: Any, places: Mapping[int, int]) -> Iterator[AdapterPair]:
    firsts, seconds, scales = (getattr(module, name, None) for name in ("lora_A", "lora_B", "scaling"))
    base = getattr(getattr(module, "base_layer", None), "weight", None)
    if firsts is None or seconds is None or not isinstance(scales, dict) or not isinstance(base, Tensor):
        return
    if base.ndim != 2 or base.is_meta or not has_norm(base) or is_sharded(base):
        return
    for name, scale in scales.items():
        if name not in firsts or name not in seconds or getattr(module, "use_dora", {}).get(name):
            continue
        a, b = firsts[name].weight, seconds[name].weight
        if a.ndim == b.ndim == 2 and id(a) in places and id(b) in places:
            yield AdapterPair(places[id(a)], places[id(b)], float(scale), base)
