"""What training holds in memory, and what would make it less.

Parameters, gradients and optimizer states are counted exactly, from the tensors that are there. What activations take
is the allocator's peak less these, and so known on a CUDA GPU only.

Keys, read by `rldk_tracking.metrics.keys`:

    rldk/memory/parameters_gib | GiB | host | lower | max over ranks
        Memory of the model's parameters.
        = bytes of all parameters and buffers
    rldk/memory/gradients_gib | GiB | host | lower | max over ranks
        Memory of the gradients.
        = as many as parameters are trained
    rldk/memory/optimizer_gib | GiB | host | lower | max over ranks
        Memory of the optimizer's state.
        = bytes of its tensors
    rldk/memory/activations_gib | GiB | host | lower | max over ranks
        What the peak holds beside the rest.
        = peak minus parameters, gradients and optimizer state
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rldk_tracking.checkpoint.report import GIB
from rldk_tracking.metrics.layers import local

LEAST_GIB = 0.1
"""Savings below this are not worth a sentence."""
LORA_SHARE = 0.01
"""Share of the parameters that a usual adapter trains (Hu et al. 2022, table 4: 0.01 % to 4 %)."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes on this rank's device. None is unknown, 0 is none.

    Attributes:
        parameters: all of the model's, frozen ones and buffers too.
        trained: those of the parameters that have a gradient to come.
        gradients: as many as the trained parameters, whether or not they are allocated at the moment.
        optimizer: the optimizer's states.
        peak: most that was allocated so far.
    """

    parameters: int
    trained: int
    gradients: int
    optimizer: int | None
    peak: int | None = None

    @property
    def activations(self) -> int | None:
        """What the peak holds beside the rest: activations, logits, generation caches."""
        if self.peak is None or self.optimizer is None:
            return None
        return max(0, self.peak - self.parameters - self.gradients - self.optimizer)

    def as_row(self) -> dict[str, float]:
        """The `rldk/memory/*` keys that are known, in GiB."""
        values = {
            "rldk/memory/parameters_gib": self.parameters,
            "rldk/memory/gradients_gib": self.gradients,
            "rldk/memory/optimizer_gib": self.optimizer,
            "rldk/memory/activations_gib": self.activations,
        }
        return {key: value / GIB for key, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Something that saves memory: `gib` on the device, or on the disk where `disk`."""

    change: str
    gib: float
    disk: bool = False

    def __str__(self) -> str:
        return f"{self.change}: about {self.gib:.1f} GiB less{' on disk' if self.disk else ''}."


def footprint(model: torch.nn.Module, optimizer: Any = None) -> Footprint:
    """Of a model and the optimizer that trains it, on this rank."""
    parameters = list(model.parameters())
    trained = _bytes(parameter for parameter in parameters if parameter.requires_grad)
    states = getattr(optimizer, "state", None)
    held = None
    if states:
        held = _bytes(value for state in states.values() for value in state.values() if isinstance(value, Tensor))
    device = parameters[0].device if parameters else torch.device("cpu")
    peak = None
    if device.type == "cuda":
        peak = int(torch.cuda.memory_stats(device).get("allocated_bytes.all.peak", 0))
    return Footprint(_bytes([*parameters, *model.buffers()]), trained, trained, held, peak)


def suggestions(
    found: Footprint,
    *,
    parameter_bytes: int = 4,
    gradient_checkpointing: bool = False,
    checkpoint_gib: float | None = None,
    checkpoints: int = 0,
    save_total_limit: int | None = None,
) -> list[Suggestion]:
    """What would save at least LEAST_GIB, the largest saving first.

    Args:
        found: the footprint.
        parameter_bytes: size of one trained parameter.
        gradient_checkpointing: whether it is on already.
        checkpoint_gib, checkpoints: size of one save, and how many lie on the disk.
        save_total_limit: the trainer's setting.
    """
    ideas = []
    count = found.trained / parameter_bytes
    if found.optimizer is not None and found.optimizer >= 6 * count:
        # Two moments of 8 bits instead of 32 (Dettmers et al. 2022).
        ideas.append(Suggestion("An 8-bit optimizer (optim='adamw_bnb_8bit')", (found.optimizer - 2 * count) / GIB))
    if not gradient_checkpointing and found.activations:
        # Chen et al. 2016: the square root of the layers is kept; half is a cautious reading of what RL runs save.
        ideas.append(Suggestion("Gradient checkpointing (gradient_checkpointing=True)", found.activations / 2 / GIB))
    if found.trained > found.parameters / 2:
        saved = (found.gradients + (found.optimizer or 0)) * (1 - LORA_SHARE)
        ideas.append(Suggestion("LoRA in place of training all weights (peft_config=LoraConfig(...))", saved / GIB))
    if parameter_bytes == 4:
        saved = (found.parameters + found.gradients + (found.optimizer or 0)) / 2
        ideas.append(
            Suggestion("Weights in bfloat16 (dtype='bfloat16'; small updates are lost to rounding)", saved / GIB)
        )
    if checkpoint_gib is not None and save_total_limit is None and checkpoints > 2:
        ideas.append(Suggestion("save_total_limit=2", (checkpoints - 2) * checkpoint_gib, disk=True))
    return sorted((idea for idea in ideas if idea.gib >= LEAST_GIB), key=lambda idea: -idea.gib)


def _bytes(tensors: Iterable[Tensor]) -> int:
    held = {id(tensor): local(tensor) for tensor in tensors}
    return sum(tensor.numel() * tensor.element_size() for tensor in held.values())
