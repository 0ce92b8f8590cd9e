"""Looks at gradients, weights and updates where the optimizer makes a real step, in any training loop.

The hooks of `torch.optim.Optimizer` fire on real steps only: not on accumulation steps, not on steps that a gradient
scaler skips. They queue small results on the device and wait for nothing; `pending` reduces what was queued to one
vector, which travels to the host with the step's other numbers.
"""

from __future__ import annotations

import logging
import math
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from rldk_tracking.isolation import Shield
from rldk_tracking.metrics import layers, updates
from rldk_tracking.metrics.layers import Layout, Summary, on, over_ranks, summarise_all
from rldk_tracking.metrics.noise_scale import NoiseScale
from rldk_tracking.metrics.process_group import world_size
from rldk_tracking.sources.adapters import Adapters, adapters_of
from rldk_tracking.sources.torch_optimizer import CANNOT, is_partitioned, named_parameters, unwrap, what_is_missing
from rldk_tracking.sources.wrapping import AcceleratorWatch

logger = logging.getLogger(__name__)

Level = Literal["light", "standard", "full"]
LEVELS: tuple[Level, ...] = ("light", "standard", "full")

QUANTITIES = ("gradients", "weights", "updates", "adam", "adapters")
HEADER = ("rldk/update/learning_rate", "rldk/grad/norm_clipped_fraction", "rldk/grad/noise_scale")
"""What stands before the quantities in the vector."""
KEPT_STEPS = 1024
"""Optimizer steps that are kept where nobody asks for them."""
SMALL_MODEL = 20_000_000
"""Up to so many parameters updates are measured in every step at the level "standard" too."""


class OptimizerSource:
    """Hooks on one optimizer, from construction to `detach`.

    Args:
        optimizer: a torch optimizer, or accelerate's wrapper of one.
        model: gives the parameters their names.
        level: "light" measures gradients; "standard" weights too, and updates every `interval` steps; "full" all of it
            in every step, and the gradient noise scale.
        accelerator: where given, gradients are read before its `clip_grad_norm_` scales them down. Otherwise they are
            what the optimizer sees.
        interval: optimizer steps between two measurements of updates at the level "standard"; by default 1 for models
            of up to 20 million parameters, else 10.
        micro_batch_size: samples in one backward pass of one rank, for the noise scale.
        shield: keeps faults of the hooks from the optimizer's step, in which they happen.

    Attributes:
        layout: the parameters of the optimizer and their layers.
        missing: what cannot be read from this optimizer, in words.
        latest: what `see` has seen last of each of `layers`.
    """

    def __init__(
        self,
        optimizer: Any,
        model: Any = None,
        level: Level = "standard",
        *,
        accelerator: Any = None,
        interval: int | None = None,
        micro_batch_size: float | None = None,
        shield: Shield | None = None,
    ) -> None:
        if level not in LEVELS:
            raise ValueError(f"level must be one of {', '.join(LEVELS)}, got {level!r}.")
        self.level = level
        self._shield = shield if shield is not None else Shield()
        self.missing: list[str] = []
        self.latest: dict[str, dict[str, float]] = {}
        self._model = weakref.ref(model) if isinstance(model, torch.nn.Module) else lambda: None
        self._optimizer = None if is_partitioned(optimizer) else unwrap(optimizer)
        self._interval = interval
        self._handles: list[Any] = []
        self._queue: dict[str, deque[Tensor]] = {name: deque(maxlen=KEPT_STEPS) for name in QUANTITIES}
        self._limits: deque[float] = deque(maxlen=KEPT_STEPS)
        self._limit: float | None = None
        self._rate: Tensor | None = None
        self._gradients: Tensor | None = None
        self._snapshot: updates.Snapshot | None = None
        self._sampled: list[int] = []
        self._steps = 0
        self._parameters: list[Tensor] = []
        self._adapters: Adapters | None = None
        self._watch: AcceleratorWatch | None = None
        self._noise: NoiseScale | None = None
        self.layout = Layout.of([])
        if self._optimizer is None:
            unknown = f"{type(optimizer).__name__} is no torch optimizer: nothing of gradients and updates can be read"
            self._lacks(CANNOT if is_partitioned(optimizer) else unknown)
            return
        self._find_parameters(self._optimizer)
        for sentence in what_is_missing(self._optimizer) if level != "light" else []:
            self._lacks(sentence)
        self._handles = [
            self._optimizer.register_step_pre_hook(self._before_step),
            self._optimizer.register_step_post_hook(self._after_step),
        ]
        if accelerator is not None and hasattr(accelerator, "clip_grad_norm_"):
            self._watch = AcceleratorWatch(accelerator, self._before_clipping, self.observe_micro_gradient)
        if level == "full" and micro_batch_size is not None and self.layout.shares is None:
            self._noise = NoiseScale(micro_batch_size, world_size())

    # What the run asks for.

    def pending(self) -> Tensor:
        """(n,) numbers of the optimizer steps since the last call, on the device; n never changes.

        Where the parameters are sharded this sums over all ranks, which must all call it at the same point.
        """
        if self._optimizer is None:
            return torch.zeros(0, dtype=torch.float64)
        layout, device = self.layout, self.layout.index.device
        steps = {name: torch.stack(tuple(queue)) for name, queue in self._queue.items() if queue}
        limits, rate = list(self._limits), self._rate
        self._limits.clear()
        self._rate = None
        for queue in self._queue.values():
            queue.clear()
        if layout.shares is not None and steps:
            steps = over_ranks(steps, layout.shares)
        absent = torch.full((layout.width,), math.nan, dtype=torch.float64, device=device)
        clipped = absent[0]
        if limits and len(limits) == len(steps.get("gradients", ())):
            totals = steps["gradients"].sum(dim=1).sqrt()
            above = [total > limit for total, limit in zip(totals, limits, strict=True)]
            clipped = torch.stack(above).double().mean()
        noise = None if self._noise is None else self._noise.value(absent[0])
        header = [absent[0] if value is None else value.to(absent) for value in (rate, clipped, noise)]
        parts = summarise_all(steps, layout)
        return torch.cat([torch.stack(header), *(parts.get(name, absent) for name in QUANTITIES)])

    def read(self, values: Sequence[float]) -> dict[str, float]:
        """The keys of a vector that `pending` made, once it is on the host."""
        if len(values) < len(HEADER):
            return {}
        parts = self._parts(values)
        metrics = layers.read_gradients(parts["gradients"], self.layout)
        metrics |= layers.read_weights(parts["weights"], self.layout) | updates.read_updates(parts, self.layout)
        return metrics | {key: value for key, value in zip(HEADER, values, strict=False) if math.isfinite(value)}

    def layers(self, values: Sequence[float]) -> dict[str, dict[str, float]]:
        """Mean norms per layer of `QUANTITIES`; those that were measured."""
        found = {name: Summary.read(part, self.layout) for name, part in self._parts(values).items()}
        return {name: summary.layers for name, summary in found.items() if summary is not None}

    def see(self, values: Sequence[float]) -> None:
        """Keep the layers' norms of a vector that `pending` made as the latest."""
        self.latest.update(self.layers(values))

    def check_weights(self) -> Tensor:
        """Number of tensors of the whole model, frozen ones too, that are not finite: a scalar on the device."""
        model = self._model()
        parameters = list(model.parameters()) if model is not None else self._parameters
        return layers.not_finite(parameters)

    def observe_micro_gradient(self) -> None:
        """A backward pass is over and no optimizer step follows: for the noise scale, at the level "full".

        With an `accelerator` this is called by itself, in a loop without one by the loop.
        """
        if self._noise is None:
            return
        with self._shield.at("a backward pass"):
            self._noise.micro(lambda: layers.gradient_squares(self._parameters).sum())

    def detach(self) -> None:
        """Take out every hook, and let go of the model: whoever keeps the callback does not keep that."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if self._watch is not None:
            self._watch.detach()
            self._watch = None
        self._optimizer = self._snapshot = self._gradients = self._adapters = None
        self._parameters = []

    # What the hooks do.

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        with self._shield.at("an optimizer step"):
            self._look_before(optimizer)

    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        with self._shield.at("an optimizer step"):
            self._look_after(optimizer)

    def _look_before(self, optimizer: torch.optim.Optimizer) -> None:
        if sum(len(group["params"]) for group in optimizer.param_groups) != len(self._parameters):
            self._find_parameters(optimizer)
        if self._gradients is None:
            # A fused optimizer under a gradient scaler divides by the scale inside its step.
            self._gradients = self._gradient_squares(getattr(optimizer, "grad_scale", None))
        squares = self._gradients
        # Now: a scheduler moves it to the next step's before anybody asks.
        self._rate = updates.learning_rate(optimizer, self.layout.index.device)
        self._queue["gradients"].append(squares)
        if self._limit is not None:
            self._limits.append(self._limit)
        if self._noise is not None:
            self._noise.step(squares.sum())
        self._gradients = self._limit = None
        if self._measures_updates():
            self._snapshot = updates.Snapshot([self._parameters[index] for index in self._sampled])
            if self._adapters is not None:
                self._adapters.keep()

    def _look_after(self, optimizer: torch.optim.Optimizer) -> None:
        if self.level != "light":
            self._queue["weights"].append(layers.weight_squares(self._parameters))
        if self._measures_updates():
            self._measure_updates(optimizer)
        self._snapshot = None
        self._steps += 1

    def _gradient_squares(self, scale: Tensor | None) -> Tensor:
        squares = layers.gradient_squares(self._parameters)
        return squares if scale is None else squares / scale.to(squares).square()

    def _measure_updates(self, optimizer: torch.optim.Optimizer) -> None:
        device = self.layout.index.device
        zero = torch.zeros((), dtype=torch.float64, device=device)
        moved, adam = ([zero] * len(self._parameters) for _ in range(2))
        if self._snapshot is not None:
            found = self._snapshot.squares([self._parameters[index] for index in self._sampled])
            for index, square in zip(self._sampled, found, strict=True):
                moved[index] = on(square, device)
        sampled, index = set(self._sampled), -1
        decoupled = isinstance(optimizer, torch.optim.AdamW)
        for group in optimizer.param_groups:
            measured: dict[int, Tensor] = {}
            for parameter in group["params"]:
                index += 1
                known = index not in sampled or updates.has_direction(optimizer, parameter)
                if known and parameter.grad is not None and optimizer.state.get(parameter):
                    measured[index] = parameter
            squares = updates.group_squares(
                list(measured.values()),
                [optimizer.state[parameter] for parameter in measured.values()],
                group,
                bool(group.get("decoupled_weight_decay", decoupled)),
            )
            for place, square, direction in zip(measured, *squares, strict=True):
                adam[place] = on(direction, device)
                if place not in sampled:
                    moved[place] = on(square, device)
        self._queue["updates"].append(torch.stack(moved))
        if self._has_direction:
            self._queue["adam"].append(torch.stack(adam))
        changes = None if self._adapters is None else self._adapters.squares()
        if changes is not None:
            self._queue["adapters"].append(changes)

    def _measures_updates(self) -> bool:
        if self.level == "light":
            return False
        interval = self._interval or (1 if sum(self.layout.numels) <= SMALL_MODEL else 10)
        return self.level == "full" or self._steps % interval == 0

    # Preparations.

    def _find_parameters(self, optimizer: torch.optim.Optimizer) -> None:
        model = self._model()
        named, unknown = named_parameters(optimizer, model)
        if unknown and model is not None:
            self._lacks(f"{unknown} parameters of the optimizer are not the model's own: their layers have no names")
        self._parameters = [parameter for _, parameter in named]
        self._sampled = [i for i, p in enumerate(self._parameters) if not updates.is_exact(optimizer, p)]
        self._has_direction = all(updates.has_direction(optimizer, p) for p in self._parameters)
        self.layout = Layout.of(named)
        self._adapters = adapters_of(model, self._parameters, self.layout)
        for queue in self._queue.values():
            queue.clear()
        self._gradients = None

    def _before_clipping(self, limit: float | None, scale: Tensor | None) -> None:
        with self._shield.at("gradient clipping"):
            self._gradients = self._gradient_squares(scale)
            self._limit = limit

    def _parts(self, values: Sequence[float]) -> dict[str, Sequence[float]]:
        width, start = self.layout.width, len(HEADER)
        return {
            name: values[start + index * width : start + (index + 1) * width] for index, name in enumerate(QUANTITIES)
        }

    def _lacks(self, sentence: str) -> None:
        if sentence not in self.missing:
            self.missing.append(sentence)
            logger.warning("rldk: %s.", sentence)
