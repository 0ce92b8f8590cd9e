"""TRL's PPO (up to 1.12) and RLOO up to 0.21, and loops like them: read from the variables of the running `train`.

That trainer keeps its rollout in local variables, which are all still there when it calls `on_log`. They are taken by
reference, because it drops them afterwards without changing them; its statistics, which it overwrites in place, are
reduced at once. Nothing of the frame is kept.

| key | what it is |
|---|---|
| rldk/train/loss | mean over micro-batches of policy loss + vf_coef * value loss |
| rldk/value/loss | mean over micro-batches of half the squared error, clipped, per token |
| rldk/value/clip_fraction | mean over micro-batches of the share of tokens whose value loss was the clipped one |
| rldk/policy/first_epoch_ratio | mean over tokens of the ratio before the update's first optimiser step; must be 1 |

The trainer's own averages divide by `gradient_accumulation_steps` slots, of which only 1 / num_mini_batches are
filled. Ratios and clipping come from the log-probabilities of every micro-batch, see `ppo_frame`. Where those cannot
be had, they come from the trainer's statistics:

| key | what it is |
|---|---|
| rldk/policy/clip_fraction | mean over micro-batches of the share of tokens whose policy loss was the clipped one |
| rldk/policy/approx_kl | mean over tokens and epochs of (log ratio)^2 / 2 |
| rldk/policy/ratio_mean | mean over tokens and epochs of the ratio |

The trainer averages the last two over padding, where the squared log-ratio is 0 and the ratio 1. Every epoch visits
every completion once, so this is undone exactly.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from rldk_tracking.isolation import Shield
from rldk_tracking.metrics.columns import precise
from rldk_tracking.rollout import PolicyUpdate, Rollout
from rldk_tracking.sources.contract import Contract
from rldk_tracking.sources.logs import Observation, canonical
from rldk_tracking.sources.ppo_frame import UpdateWatch, first_ratio, micro_batches, train_variables, update_of
from rldk_tracking.sources.wrapping import local_variables

NEEDED = ("padding_mask", "postprocessed_responses", "logprobs", "ref_logprobs", "scores")
STATISTICS = ("approxkl_stats", "pg_clipfrac_stats", "pg_loss_stats", "ratio_stats")
CRITIC = ("values", "returns", "padding_mask_p1")
OF_CRITIC = ("vf_loss_stats", "vf_clipfrac_stats")
NUMBERS = ("rldk/train/loss", "rldk/value/loss", "rldk/value/clip_fraction", "rldk/policy/first_epoch_ratio")
"""What no tensors of the rollout have."""


class PPOSource:
    """Reads trainers whose `train` keeps its rollout in the variables of TRL's PPOTrainer. See `Source`."""

    honours_stop = False

    def __init__(self, trainer: Any) -> None:
        self.contract = of_loop(trainer)
        self.missing: list[str] = []
        self.rollout_seconds: float | None = None
        args = trainer.args
        size = int(args.per_device_train_batch_size) * int(args.gradient_accumulation_steps)
        epochs = int(getattr(args, "num_ppo_epochs", 1))
        self.rows_per_rank = int(getattr(args, "local_batch_size", None) or size) * epochs
        self._trainer: Callable[[], Any] = lambda: None
        self._watch: UpdateWatch | None = None

    def attach(self, trainer: Any, shield: Shield) -> None:
        """Wrap `accelerator.backward`. The rollout needs nothing: the frame is looked up when it is read."""
        self.detach()
        self._trainer = weakref.ref(trainer)
        if callable(getattr(getattr(trainer, "accelerator", None), "backward", None)):
            self._watch = UpdateWatch(trainer, self._trainer, shield)

    def detach(self) -> None:
        """Unwrap, and forget the trainer."""
        self._trainer = lambda: None
        if self._watch is not None:
            self._watch.detach()
            self._watch = None

    def read(self, step: int, logs: Mapping[str, Any]) -> Observation:
        """The rollout and the update that the trainer is logging. To be called inside its `on_log`."""
        trainer = self._trainer()
        if trainer is None:
            return Observation(logged=canonical(logs, "ppo"))
        batches = self._watch.take() if self._watch is not None else []
        critic = "values" in self.contract.rollout
        names = (*NEEDED, "advantages", "non_score_reward", *STATISTICS, *((*CRITIC, *OF_CRITIC) if critic else ()))
        found = train_variables(trainer, names)
        lacks = [name for name in names if name not in found]
        self.missing = [f"its train() has no local variables {', '.join(lacks)}"] if lacks else []
        # RLOO fills the slots that it divides by, and logs a critic's as 0.
        unfilled = int(getattr(trainer.args, "num_mini_batches", 1)) if critic else 1
        logged = canonical(logs, "ppo", num_mini_batches=unfilled)
        logged = {key: value for key, value in logged.items() if critic or not key.startswith("rldk/value/")}
        if not all(name in found for name in NEEDED):
            return Observation(logged=logged)
        scalars: dict[str, float | Tensor] = {**statistics(trainer, found, ~found["padding_mask"])}
        if batches:
            scalars = {key: value for key, value in scalars.items() if not key.startswith("rldk/policy/")}
            scalars["rldk/policy/first_epoch_ratio"] = first_ratio(batches)

        def read_tensors() -> tuple[Rollout | None, PolicyUpdate | None]:
            return rollout_of(trainer, found), update_of(trainer, batches) if batches else None

        return Observation(scalars, read_tensors, logged)


def of_loop(trainer: Any) -> Contract:
    """Of a trainer that keeps its rollout in its loop, with a critic or without, as RLOO up to TRL 0.21."""
    args = trainer.args
    rollout = {
        **dict.fromkeys(("mask", "token_ids", "logprobs", "ref_logprobs", "scores", "non_score_rewards"), True),
        **dict.fromkeys(("values", "returns", "value_mask", "raw_advantages"), has_critic(trainer)),
        "advantages": True,
        "group_ids": bool(getattr(args, "rloo_k", None)),
        "truncated": stop_token(trainer) is not None,
    }
    # An update of one optimiser step can clip nothing.
    may_clip = not hasattr(args, "local_mini_batch_size") or micro_batches(args) > int(args.gradient_accumulation_steps)
    return Contract(
        frozenset(field for field, is_there in rollout.items() if is_there),
        frozenset({"old_logprobs", *(("clip_low", "clip_high") if may_clip else ())}),
        frozenset(key for key in NUMBERS if has_critic(trainer) or "/value/" not in key),
    )


def has_critic(trainer: Any) -> bool:
    """Whether its loop has values of a critic."""
    return "values" in local_variables(trainer, "train")


def stop_token(trainer: Any) -> int | None:
    """The token that ends a response; None where there is none."""
    token: int | None = getattr(trainer, "stop_token_id", getattr(trainer.args, "stop_token_id", None))
    return token


def rollout_of(trainer: Any, found: Mapping[str, Tensor]) -> Rollout:
    """The variables in the contract's terms. The end-of-sequence token is the last one that `padding_mask` leaves."""
    values, returns = found.get("values"), found.get("returns")
    non_score, value_padding = found.get("non_score_reward"), found.get("padding_mask_p1")
    return Rollout(
        mask=~found["padding_mask"],
        token_ids=found["postprocessed_responses"],
        logprobs=found["logprobs"],
        ref_logprobs=found["ref_logprobs"],
        scores=found["scores"],
        values=values,
        returns=returns,
        value_mask=None if value_padding is None else ~value_padding,
        advantages=found.get("advantages"),
        raw_advantages=None if values is None or returns is None else returns - values,
        non_score_rewards=non_score.sum(dim=1) if non_score is not None and non_score.ndim > 1 else non_score,
        group_ids=groups(trainer, found["scores"]),
        truncated=truncated(trainer, found["postprocessed_responses"]),
    )


def groups(trainer: Any, scores: Tensor) -> Tensor | None:
    """(B,) numbers of the prompts where each is answered several times, as by RLOO: all of them once, then again."""
    times = getattr(trainer.args, "rloo_k", None)
    if not times:
        return None
    prompts = len(scores) // int(times)
    rows = torch.arange(len(scores), device=scores.device)
    return rows % prompts + prompts * int(trainer.accelerator.process_index)


def truncated(trainer: Any, responses: Tensor) -> Tensor | None:
    """(B,) True where the stop token never came. None without a stop token: then every response has full length."""
    stop = stop_token(trainer)
    return None if stop is None else ~(responses == stop).any(dim=1)


def statistics(trainer: Any, found: Mapping[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
    """The scalars of the module's tables, on the device."""
    critic = has_critic(trainer)
    if any(name not in found for name in (*STATISTICS, *(OF_CRITIC if critic else ()))):
        return {}
    args = trainer.args
    local, micro = int(args.local_mini_batch_size), int(args.per_device_train_batch_size)
    sizes = [min(micro, local - start) for start in range(0, local, micro)]
    weights = torch.tensor(sizes, dtype=torch.float32) / local
    policy = _mean(found["pg_loss_stats"], weights)
    if not critic:
        return {"rldk/train/loss": policy}
    value = _mean(found["vf_loss_stats"], weights)
    # How many positions there are for each response token.
    dilution = mask.numel() / mask.sum().clamp(min=1)
    ratios = found["ratio_stats"]
    before = ratios[:1, :1, :1] if _steps_often(trainer) else ratios[:1]
    return {
        "rldk/train/loss": policy + float(args.vf_coef) * value,
        "rldk/value/loss": value,
        "rldk/value/clip_fraction": _mean(found["vf_clipfrac_stats"], weights),
        "rldk/policy/clip_fraction": _mean(found["pg_clipfrac_stats"], weights),
        "rldk/policy/approx_kl": _mean(found["approxkl_stats"], weights) * dilution,
        "rldk/policy/ratio_mean": 1 + (_mean(ratios, weights) - 1) * dilution,
        "rldk/policy/first_epoch_ratio": 1 + (_mean(before, weights[: before.shape[2]]) - 1) * dilution,
    }


def _mean(slots: Tensor, weights: Tensor) -> Tensor:
    """Over epochs, minibatches and the micro-batches that were filled; a larger micro-batch weighs more."""
    filled = precise(slots[:, :, : len(weights)]).mean(dim=(0, 1))
    weights = weights.to(filled)
    return (filled * weights).sum() / weights.sum()


def _steps_often(trainer: Any) -> bool:
    """Whether optimiser steps may lie within the first epoch, so that only the first micro-batch surely has ratio 1.

    `accelerate` steps once in `gradient_accumulation_steps` micro-batches, which are an epoch's where they divide the
    minibatches evenly; but after every one of them while the data set has come to its end. Where only the first
    micro-batch counts, its padding is not known and the batch's is taken: a ratio of 1 stays exactly 1.
    """
    state = getattr(trainer.accelerator, "gradient_state", None)
    at_end = state is None or (state.sync_with_dataloader and state.end_of_dataloader)
    an_epoch = micro_batches(trainer.args) // int(trainer.args.num_ppo_epochs)
    return bool(at_end) or an_epoch != int(trainer.args.gradient_accumulation_steps)
