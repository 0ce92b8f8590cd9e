"""The local variables of the running `PPOTrainer.train`, where TRL's PPO keeps all that it does.

What the losses of one update saw, the log-probabilities of every micro-batch of every epoch, it deletes after each
minibatch. So they are taken where it calls `accelerator.backward`, which is wrapped on the trainer's accelerator and
called as before.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rldk_tracking.isolation import Shield
from rldk_tracking.metrics.columns import precise
from rldk_tracking.rollout import PolicyUpdate
from rldk_tracking.sources.wrapping import Wrapped

MARK = "padding_mask"
"""A variable by which the training loop is told from a `train` that only calls it."""
NAMES = ("new_logprobs", "mb_logprobs", "mb_advantage")
OF_TOKENS = ("logprobs", "new_ratio", "micro_batch_inds")
"""By which RLOO up to TRL 0.21 has tokens, where it has summed the first two over completions."""
INVALID_LOGPROB = 1.0
"""What the trainer writes over log-probabilities of padding; no log-probability is above 0."""


def train_variables(trainer: Any, names: tuple[str, ...]) -> dict[str, Tensor]:
    """Tensors of the running `train` of this trainer, by name; those that are there. Nothing of the frame is kept."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "train" and MARK in (*frame.f_code.co_varnames, *frame.f_code.co_cellvars):
            variables = frame.f_locals
            mine = variables.get("self") is trainer
            tensors = {name: variables.get(name) for name in names}
            tensors = {n: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for n, v in tensors.items()}
            found = {name: value for name, value in tensors.items() if isinstance(value, Tensor)}
            if isinstance(variables, dict):
                # Before Python 3.13 this is a copy that lives as long as the frame and would keep the tensors alive.
                variables.clear()
            if mine:
                return found
        frame = frame.f_back
    return {}


@dataclass
class MicroBatch:
    """(n, T) of one backward pass, `advantages` (n,) where a completion has one.

    `is_first` where no optimiser step of this update lies before it.
    """

    new_logprobs: Tensor
    old_logprobs: Tensor
    advantages: Tensor
    is_first: bool


class UpdateWatch:
    """Collects micro-batches from construction to `detach`; `take` hands over those of an update.

    Args:
        trainer: whose accelerator is wrapped.
        get_trainer: gives it as long as it is there.
        shield: keeps faults from the trainer's backward pass.
    """

    def __init__(
        self,
        trainer: Any,
        get_trainer: Callable[[], Any],
        shield: Shield,
    ) -> None:
        self._shield = shield
        self._get_trainer = get_trainer
        self._micro_batches: list[MicroBatch] = []
        self._stepped = False
        self._capacity = micro_batches(trainer.args)
        self._wrapped = Wrapped(trainer.accelerator, "backward", self._around)

    def take(self) -> list[MicroBatch]:
        """All since the last call. To be called when an update is over."""
        taken, self._micro_batches, self._stepped = self._micro_batches, [], False
        return taken

    def detach(self) -> None:
        """Unwrap and forget."""
        self._wrapped.restore()
        self._get_trainer = lambda: None
        self._micro_batches = []

    def _around(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def backward(*args: Any, **kwargs: Any) -> Any:
            with self._shield.at("reading a micro-batch"):
                self._keep()
            return original(*args, **kwargs)

        return backward

    def _keep(self) -> None:
        trainer = self._get_trainer()
        if trainer is None:
            return
        found = train_variables(trainer, (*NAMES, *OF_TOKENS))
        if not all(name in found for name in NAMES):
            return
        new, old, advantages = (found[name].detach() for name in NAMES)
        if new.ndim < 2:
            if not all(name in found for name in OF_TOKENS):
                return
            old = found["logprobs"][found["micro_batch_inds"]]
            new = old + found["new_ratio"].detach().log()
        if len(self._micro_batches) >= self._capacity:
            # Nobody took the last update's.
            self.take()
        self._micro_batches.append(MicroBatch(new, old, advantages, not self._stepped))
        self._stepped = self._stepped or bool(trainer.accelerator.sync_gradients)


def micro_batches(args: Any) -> int:
    """Backward passes in one update."""
    a_minibatch = -(-int(args.local_mini_batch_size) // int(args.per_device_train_batch_size))
    return int(args.num_ppo_epochs) * int(args.num_mini_batches) * a_minibatch


def update_of(trainer: Any, batches: list[MicroBatch]) -> PolicyUpdate:
    """The whole update: every epoch's pass over every completion is a row.

    Where no optimiser step lies before any of them, nothing can be clipped, and there is no clip range.
    """
    cliprange = None if all(batch.is_first for batch in batches) else float(trainer.args.cliprange)
    old = torch.cat([batch.old_logprobs for batch in batches])
    return PolicyUpdate(
        mask=old != INVALID_LOGPROB,
        new_logprobs=torch.cat([batch.new_logprobs for batch in batches]),
        old_logprobs=old,
        advantages=torch.cat([batch.advantages for batch in batches]),
        clip_low=cliprange,
        clip_high=cliprange,
        sequence_level=any(batch.advantages.ndim < 2 for batch in batches),
    )


def first_ratio(batches: list[MicroBatch]) -> Tensor:
    """Mean over tokens of the ratio in the micro-batches that no optimiser step lies before; a scalar on the device."""
    first = [batch for batch in batches if batch.is_first]
    new = precise(torch.cat([batch.new_logprobs for batch in first]))
    old = precise(torch.cat([batch.old_logprobs for batch in first]))
    mask = old != INVALID_LOGPROB
    return (new - old).exp().masked_fill(~mask, 0.0).sum() / mask.sum()
