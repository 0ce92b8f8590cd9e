"""Reads a PPO run out of the frame of `PPOTrainer.train` and of the functions that it calls, in a way of its own."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainerCallback

from tests.runs.slow import Completion, Trained, mean, rollout_keys, update_keys

ROLLOUT = [
    "logprobs",
    "ref_logprobs",
    "padding_mask",
    "padding_mask_p1",
    "values",
    "returns",
    "advantages",
    "scores",
    "postprocessed_responses",
    "contain_eos_token",
    "non_score_reward",
]
STATISTICS = ("pg_loss_stats", "vf_loss_stats", "vf_clipfrac_stats", "ratio_stats", "approxkl_stats")


@dataclass
class Update:
    """One update: the rollout and statistics in the frame at its end, and every micro-batch on the way."""

    frame: dict[str, torch.Tensor] = field(default_factory=dict)
    micro: list[dict[str, Any]] = field(default_factory=list)
    logs: dict[str, Any] = field(default_factory=dict)


class PPOSpy(TrainerCallback):
    """`selective_log_softmax`, by which the trainer gets every log-probability, is to be replaced by `selective`."""

    def __init__(self, selective: Any, names: Sequence[str] = (*ROLLOUT, *STATISTICS)) -> None:
        self._names = names
        self.trainer: Any = None
        self.steps: dict[int, Update] = {}
        self._selective = selective
        self._update = Update()
        self._stepped = False

    def selective(self, logits: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self._selective(logits, index)
        variables = sys._getframe(1).f_locals
        if variables.get("mb_responses") is index:
            names = ("mb_logprobs", "mb_advantage", "micro_batch_inds", "padding_mask")
            batch = {name: variables[name] for name in names}
            batch["first"] = not self._stepped
            self._update.micro.append({**batch, "new": found.detach().clone()})
        return found

    def on_train_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        getattr(optimizer, "optimizer", optimizer).register_step_post_hook(self._after_step)

    def _after_step(self, *_: Any) -> None:
        self._stepped = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        (frame,) = [i.frame for i in inspect.stack() if i.function == "train" and "ref_logprobs" in i.frame.f_locals]
        self._update.frame = {name: frame.f_locals[name].clone() for name in self._names}
        self._update.logs = dict(logs)
        self.steps[state.global_step] = self._update
        self._update, self._stepped = Update(), False


def rollout(batch: list[Completion], earlier: Sequence[float] = ()) -> dict[str, float]:
    return rollout_keys(batch, {}, earlier) | {"rldk/policy/entropy": mean(-p for c in batch for p in c.logprobs or ())}


def completions(update: Update, has_stop_token: bool) -> list[Completion]:
    """The rollout in the frame."""
    seen = {name: value.tolist() for name, value in update.frame.items() if name in ROLLOUT}
    batch = []
    for row in range(len(seen["scores"])):
        kept = [not padding for padding in seen["padding_mask"][row]]
        valued = [not padding for padding in seen["padding_mask_p1"][row]]

        def tokens(name: str, kept: list[bool], row: int = row) -> list[Any]:
            return [x for x, is_kept in zip(seen[name][row], kept, strict=True) if is_kept]

        raw = [r - v for r, v in zip(tokens("returns", kept), tokens("values", kept), strict=True)]
        batch.append(
            Completion(
                tokens=tokens("postprocessed_responses", kept),
                score=seen["scores"][row],
                advantages=tokens("advantages", kept),
                raw_advantages=raw,
                truncated=not seen["contain_eos_token"][row] if has_stop_token else None,
                logprobs=tokens("logprobs", kept),
                ref_logprobs=tokens("ref_logprobs", kept),
                penalty=sum(seen["non_score_reward"][row]),
                values=tokens("values", valued),
                returns=tokens("returns", valued),
            )
        )
    return batch


def policy(rows: list[Trained], cliprange: float) -> dict[str, float]:
    limit = None if all(row.is_first for row in rows) else cliprange
    return update_keys(rows, limit, limit, sequence_level=False)


def trained(update: Update) -> list[Trained]:
    """What the losses of all epochs saw."""
    rows = []
    for batch in update.micro:
        padding = batch["padding_mask"][batch["micro_batch_inds"]].tolist()
        for row, is_padding in enumerate(padding):
            kept = [t for t, padded in enumerate(is_padding) if not padded]
            new, old, advantages = (batch[n][row].double() for n in ("new", "mb_logprobs", "mb_advantage"))
            rows.append(
                Trained(new[kept].tolist(), old[kept].tolist(), advantages[kept].tolist(), None, 0, batch["first"])
            )
    return rows


def losses(update: Update, args: Any) -> dict[str, float]:
    """Averages over the slots of the trainer's statistics that it filled: one a micro-batch of a minibatch."""
    filled = args.local_mini_batch_size // args.per_device_train_batch_size
    slots = {name: mean(update.frame[name][:, :, :filled].double().flatten().tolist()) for name in STATISTICS}
    return {
        "rldk/train/loss": slots["pg_loss_stats"] + args.vf_coef * slots["vf_loss_stats"],
        "rldk/value/loss": slots["vf_loss_stats"],
        "rldk/value/clip_fraction": slots["vf_clipfrac_stats"],
    }
