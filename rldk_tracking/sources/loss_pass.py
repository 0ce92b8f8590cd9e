"""What the loss of TRL's GRPO and RLOO trainers computed for one micro-batch, and the `PolicyUpdate` of a step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from rldk_tracking.rollout import PolicyUpdate
from rldk_tracking.sources.generation import Generation, align, row_keys, stack_rows

CLIPPED_LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo")
"""GRPO's losses that clip the ratio on both sides."""

SELECTIONS = ("get_high_entropy_mask", "get_off_policy_mask")
"""Methods of GRPO whose masks say which of the tokens the loss weighs."""


@dataclass
class LossPass:
    """One micro-batch's forward pass in the loss.

    Attributes:
        step: optimiser steps made before it.
        generation: what it trains on, where that was seen.
        inputs: the micro-batch as the trainer buffers it.
        input_ids: (N, L) prompts and completions.
        logprobs, entropy: (N, T), detached.
        selections: (N, T) or (N, 1), what the trainer's `SELECTIONS` gave: 0 at tokens whose ratios it does not weigh.
    """

    step: int
    generation: Generation | None
    inputs: Mapping[str, Any]
    input_ids: Tensor
    logprobs: Tensor
    entropy: Tensor | None
    selections: list[Tensor] = field(default_factory=list)

    @cached_property
    def keys(self) -> Tensor:
        """(N,) hashes of prompt and completion, see `row_keys`."""
        return row_keys(self.input_ids)

    @property
    def is_first(self) -> bool:
        """Whether no optimiser step lies between sampling and this loss."""
        return self.generation is not None and self.generation.step == self.step

    @property
    def mask(self) -> Tensor:
        """(N, T) bool, the tokens that the loss counts."""
        mask: Tensor = self.inputs["completion_mask"].bool()
        tool_mask = self.inputs.get("tool_mask")
        return mask if tool_mask is None else mask & tool_mask.bool()

    @property
    def loss_mask(self) -> Tensor:
        """(N, T) bool, those of the mask's tokens whose ratios the loss weighs."""
        mask = self.mask
        for selection in self.selections:
            mask = mask & selection.bool()
        return mask

    @property
    def old_logprobs(self) -> Tensor | None:
        """(N, T) at sampling time; None where the loss takes its own instead."""
        kept: Tensor | None = self.inputs.get("old_per_token_logps")
        if kept is None and self.generation is not None and self.generation.old_logprobs is not None:
            return align(self.generation.keys, self.generation.old_logprobs, self.keys)
        return kept


def update_of(trainer: Any, passes: Sequence[LossPass]) -> PolicyUpdate | None:
    """All micro-batches of an optimiser step together; None where they do not fit together."""
    mask, logprobs = stack_rows([p.mask for p in passes]), stack_rows([p.logprobs for p in passes])
    if mask is None or logprobs is None:
        return None
    first = all(p.is_first for p in passes)
    low, high = (None, None) if first or not _selections_known(trainer, passes) else clip_range(trainer)
    delta = getattr(getattr(trainer, "args", None), "delta", None)
    capped, is_gmpo = getattr(trainer, "loss_type", None) == "cispo", _is_a(trainer, "GMPOTrainer")
    level = "token" if is_gmpo else getattr(trainer, "importance_sampling_level", "token")
    return PolicyUpdate(
        mask=mask,
        new_logprobs=logprobs,
        old_logprobs=stack_rows([p.old_logprobs for p in passes]),
        advantages=stack_rows([p.inputs.get("advantages") for p in passes]),
        entropy=stack_rows([p.entropy for p in passes]),
        micro_batch=torch.cat([torch.full_like(p.mask[:, 0], i, dtype=torch.long) for i, p in enumerate(passes)]),
        clip_low=low,
        clip_high=high,
        clip_delta=None if high is None or capped or is_gmpo else delta,
        capped=capped and not is_gmpo,
        sequence_level=_is_a(trainer, "RLOOTrainer") or level in ("sequence", "sequence_token"),
        geometric_mean=level in ("sequence", "sequence_token"),
        clips_tokens=level == "sequence_token",
        loss_mask=stack_rows([p.loss_mask for p in passes]) if any(p.selections for p in passes) else None,
        excluded=~mask.any(dim=1) if getattr(trainer, "mask_truncated_completions", False) else None,
        first_epoch=first,
    )


def clip_range(trainer: Any) -> tuple[float | None, float | None]:
    """How far below and above 1 a ratio may be; None on a side that is not clipped, or not by the ratio itself."""
    low, high = getattr(trainer, "epsilon_low", None), getattr(trainer, "epsilon_high", None)
    loss = getattr(trainer, "loss_type", "grpo")
    if _is_a(trainer, "GMPOTrainer"):
        # It clips the logarithm of the ratio, whatever its loss type.
        return None if low is None else 1 - math.exp(-low), None if high is None else math.exp(high) - 1
    if loss == "cispo":
        # Here the limit itself is given, not its distance from 1.
        return None, None if high is None else high - 1
    return (low, high) if loss in CLIPPED_LOSSES else (None, None)


def _selections_known(trainer: Any, passes: Sequence[LossPass]) -> bool:
    """Whether every mask was seen with which this trainer leaves tokens out of the loss."""
    entropy = getattr(trainer, "top_entropy_quantile", 1.0) < 1.0
    off_policy = getattr(trainer, "off_policy_mask_threshold", None) is not None
    return all(len(p.selections) == entropy + off_policy for p in passes)


def _is_a(trainer: Any, name: str) -> bool:
    return any(cls.__name__.endswith(name) for cls in type(trainer).__mro__)


def detached(values: Any) -> Tensor | None:
    """A tensor without its graph, None for anything else."""
    return values.detach() if isinstance(values, torch.Tensor) else None
