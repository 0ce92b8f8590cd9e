"""What the losses of TRL's GRPO and RLOO trainers compute for their micro-batches, and the `PolicyUpdate` of a step."""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from rldk_tracking.isolation import Shield
from rldk_tracking.rollout import PolicyUpdate
from rldk_tracking.sources.batches import batch_of, completion_columns, what_lacks
from rldk_tracking.sources.generation import Generation, align, keys_of, row_keys, stack_rows
from rldk_tracking.sources.wrapping import SCORING, Wrapped, local_variables

LOSSES = ("compute_loss", "_compute_loss")
"""Methods that are given a micro-batch, the inner one where a trainer has it."""

LOGPROBS = "_get_per_token_logps_and_entropies"
"""The method that gives log-probabilities, in the loss and before it."""

OLDER_LOGPROBS = "_get_per_token_logps"
"""The same in TRL up to 0.19: log-probabilities alone."""

OF_COMPLETIONS = "old_logps"
"""In the batches of RLOO, (B,) log-probabilities of whole completions, where GRPO's have one of each token."""

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
        inputs: the micro-batch as the loss is given it.
        logprobs, entropy: (N, T), detached.
        ref_logprobs: (N, T), where the loss asks the reference itself, as in TRL up to 0.18.
        selections: (N, T) or (N, 1), what the trainer's `SELECTIONS` gave: 0 at tokens whose ratios it does not weigh.
    """

    step: int
    generation: Generation | None
    inputs: Mapping[str, Any]
    logprobs: Tensor
    entropy: Tensor | None
    ref_logprobs: Tensor | None = None
    selections: list[Tensor] = field(default_factory=list)

    @cached_property
    def keys(self) -> Tensor:
        """(N,) hashes of prompt and completion, see `row_keys`."""
        return keys_of(self.inputs)

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


class LossWatch:
    """Stands around a trainer's losses and what they call, from construction to `detach`. Evaluation is left alone.

    Args:
        trainer: one without a method is left without it.
        shield: keeps faults of the reading from the trainer.
        say: takes what cannot be read.

    Attributes:
        generation: what is trained on, set by whoever knows it.
        is_called: whether a loss has asked for log-probabilities since the last `take`, also where its micro-batch
            could not be read.
    """

    def __init__(self, trainer: Any, shield: Shield, say: Callable[[str], None]) -> None:
        self.generation: Generation | None = None
        self.is_called = False
        self._trainer: Callable[[], Any] = weakref.ref(trainer)
        self._shield, self._say = shield, say
        self._given: tuple[Any, ...] = ()
        self._passes: list[LossPass] = []
        self._scored: list[tuple[Tensor, Tensor]] = []
        around = dict.fromkeys(LOSSES, self._around_loss) | {logprobs_of(trainer): self._around_logprobs}
        around |= dict.fromkeys(SELECTIONS, self._around_selection)
        there = [name for name in around if callable(getattr(trainer, name, None))]
        self._wrapped = [Wrapped(trainer, name, around[name]) for name in there]

    def take(self) -> list[LossPass]:
        """The forward passes since the last call."""
        passes, self._passes, self._scored, self.is_called = self._passes, [], [], False
        return passes

    def take_scored(self) -> list[tuple[Tensor, Tensor]]:
        """Of each call without a gradient since the last time (B,) keys of its rows and (B, T) log-probabilities."""
        scored, self._scored = self._scored, []
        return scored

    def detach(self) -> None:
        """Put the methods back as they were, and let go of the tensors."""
        for wrapped in self._wrapped:
            wrapped.restore()
        self._trainer = lambda: None
        self._wrapped, self._passes, self._scored, self.generation = [], [], [], None

    def _around_loss(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def compute_loss(*args: Any, **kwargs: Any) -> Any:
            before, self._given = self._given, (kwargs.get("inputs", args[1] if len(args) > 1 else None), *self._given)
            try:
                return original(*args, **kwargs)
            finally:
                self._given = before

        return compute_loss

    def _around_logprobs(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def get_per_token_logps(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            with self._shield.at("reading log-probabilities"):
                self._keep_logprobs(result, kwargs.get("input_ids", args[1] if len(args) > 1 else None))
            return result

        return get_per_token_logps

    def _around_selection(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def select(*args: Any, **kwargs: Any) -> Any:
            mask = original(*args, **kwargs)
            kept = detached(mask)
            if is_training(self._trainer()) and self._passes and kept is not None:
                self._passes[-1].selections.append(kept)
            return mask

        return select

    def _keep_logprobs(self, result: Any, input_ids: Any) -> None:
        trainer = self._trainer()
        logprobs, entropy = map(detached, (result, None) if isinstance(result, Tensor) else result[:2])
        if not is_training(trainer):
            return
        if not torch.is_grad_enabled():
            if self._given and self._passes:
                self._passes[-1].ref_logprobs = logprobs
            elif isinstance(input_ids, Tensor) and logprobs is not None:
                self._scored.append((row_keys(input_ids), logprobs))
            return
        self.is_called = True
        # The inner loss may be given a part only of what the outer one was given, as ms-swift's.
        batches = [batch_of(given, trainer) for given in self._given] or [None]
        inputs = next((batch for batch in batches if not what_lacks([batch])), batches[0])
        lacks = what_lacks([inputs])
        if lacks:
            self._say(f"its loss is given a {type(inputs).__name__} {lacks}")
            return
        if logprobs is None:
            self._say("its loss computes log-probabilities where they cannot be seen")
            return
        logprobs, entropy = completion_columns(inputs, logprobs), completion_columns(inputs, entropy)
        step = int(trainer.state.global_step)
        found = LossPass(step, self.generation, inputs, logprobs, entropy)
        self._passes = [p for p in self._passes if p.step == step] + [found]


def logprobs_of(trainer: Any) -> str:
    """The name of the trainer's method that gives log-probabilities; the newest, where it has none."""
    is_older = not hasattr(trainer, LOGPROBS) and callable(getattr(trainer, OLDER_LOGPROBS, None))
    return OLDER_LOGPROBS if is_older else LOGPROBS


def is_training(trainer: Any) -> bool:
    """False in an evaluation, and of a trainer that is gone."""
    return trainer is not None and bool(trainer.model.training)


def update_of(trainer: Any, passes: Sequence[LossPass]) -> PolicyUpdate | None:
    """All micro-batches of an optimiser step together; None where they do not fit together."""
    mask, logprobs = stack_rows([p.mask for p in passes]), stack_rows([p.logprobs for p in passes])
    if mask is None or logprobs is None:
        return None
    first = all(p.is_first for p in passes)
    low, high = (None, None) if first or not _selections_known(trainer, passes) else clip_range(trainer)
    delta = getattr(getattr(trainer, "args", None), "delta", None)
    by_logarithm = clips_logarithms(trainer)
    capped = getattr(trainer, "loss_type", None) == "cispo" and not by_logarithm
    level = "token" if by_logarithm else getattr(trainer, "importance_sampling_level", "token")
    return PolicyUpdate(
        mask=mask,
        new_logprobs=logprobs,
        old_logprobs=stack_rows([p.old_logprobs for p in passes]),
        advantages=stack_rows([p.inputs.get("advantages") for p in passes]),
        entropy=stack_rows([p.entropy for p in passes]),
        micro_batch=torch.cat([torch.full_like(p.mask[:, 0], i, dtype=torch.long) for i, p in enumerate(passes)]),
        clip_low=low,
        clip_high=high,
        clip_delta=None if high is None or capped or by_logarithm else delta,
        capped=capped,
        # RLOO keeps one old log-probability of each completion.
        sequence_level=any(OF_COMPLETIONS in p.inputs for p in passes) or level in ("sequence", "sequence_token"),
        geometric_mean=level in ("sequence", "sequence_token"),
        clips_tokens=level == "sequence_token",
        loss_mask=stack_rows([p.loss_mask for p in passes]) if any(p.selections for p in passes) else None,
        excluded=~mask.any(dim=1) if getattr(trainer, "mask_truncated_completions", False) else None,
        first_epoch=first,
    )


def is_rloo(trainer: Any) -> bool:
    """Whether its loss has one ratio of each completion, the product over its tokens, as RLOO's."""
    # Unsloth's loss calls those of tokens so, but has no `logps` to divide by.
    of_losses = [local_variables(trainer, method) for method in LOSSES]
    return OF_COMPLETIONS in local_variables(trainer, SCORING) or any({OF_COMPLETIONS, "logps"} <= v for v in of_losses)


def clips_logarithms(trainer: Any) -> bool:
    """Whether its loss clips the logarithm of the ratio, whatever its loss type, as GMPO's (arXiv:2507.20673)."""
    return "clipped_log_ratio" in local_variables(trainer, "_compute_loss")


def clip_range(trainer: Any) -> tuple[float | None, float | None]:
    """How far below and above 1 a ratio may be; None on a side that is not clipped, or not by the ratio itself."""
    low, high = getattr(trainer, "epsilon_low", None), getattr(trainer, "epsilon_high", None)
    loss = getattr(trainer, "loss_type", "grpo")
    if clips_logarithms(trainer):
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


def detached(values: Any) -> Tensor | None:
    """A tensor without its graph, None for anything else."""
    return values.detach() if isinstance(values, torch.Tensor) else None
