"""GRPO and RLOO: completions in groups of one prompt, read where the trainer makes and scores them.

Methods of the trainer instance are wrapped, and called as before. `_generate_and_score_completions` gives the rollout
in generation order, before it is shuffled; `_calculate_rewards`, within it, what each reward function returned (see
`reward_functions`); `compute_loss` and `_compute_loss` which micro-batch a loss is of; within it
`_get_per_token_logps_and_entropies` the log-probabilities of the weights that the optimiser step starts from, and
`loss_pass.SELECTIONS` which tokens it weighs.

Where the trainer computes no log-probabilities at sampling time, because no optimiser step lies between sampling and
the loss, those of the loss are the same numbers, and `Rollout.logprobs` holds them; ratios are then 1 by construction,
so `PolicyUpdate.old_logprobs` is None. Where ratios are computed but no step lies between, the clip range is None:
nothing can be clipped, and a share of 0 would say nothing.

Where the first method is not there, or not called, the rollout is what the losses were given, and its rewards are
those of the completions that were scored last. Without both only the logs are left.
"""

from __future__ import annotations

import functools
import math
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rldk_tracking.isolation import Shield
from rldk_tracking.rollout import PolicyUpdate, Rollout
from rldk_tracking.sources.batches import batch_of, what_lacks
from rldk_tracking.sources.contract import accumulated, micro_batches_between, of_completions, stop_ids
from rldk_tracking.sources.generation import Generation, align, at_sampling, joined, keys_of, stacked
from rldk_tracking.sources.logs import Kind, Observation, canonical
from rldk_tracking.sources.loss_pass import (
    OF_COMPLETIONS,
    LossPass,
    LossWatch,
    is_rloo,
    is_training,
    logprobs_of,
    update_of,
)
from rldk_tracking.sources.reward_functions import REWARDS, RewardWatch, Scored
from rldk_tracking.sources.scoring import NOT_SCORED, logs_of, with_rewards
from rldk_tracking.sources.wrapping import SCORING, Wrapped


class GroupSource:
    """Reads trainers that score what they sample as TRL's GRPOTrainer and RLOOTrainer do. See `Source`."""

    honours_stop = True

    def __init__(self, trainer: Any) -> None:
        self.contract = of_completions(trainer)
        self.missing: list[str] = []
        self._shield = Shield()
        self.rows_per_rank = rows_per_rank(trainer)
        self.rollout_seconds: float | None = None
        self._kind: Kind = "rloo" if is_rloo(trainer) else "grpo"
        self._trainer: Callable[[], Any] = lambda: None
        self._scoring: Wrapped | None = None
        self._generation: Generation | None = None
        self._generations: list[Generation] = []
        self._seconds = 0.0
        self._losses: LossWatch | None = None
        self._trained_on: list[weakref.ref[Tensor]] = []
        self._rewards: RewardWatch | None = None
        self._last_scored: list[Scored] = []

    def attach(self, trainer: Any, shield: Shield) -> None:
        """Wrap the methods that are there."""
        self.detach()
        self._trainer, self._shield = weakref.ref(trainer), shield
        self.missing = what_is_missing(trainer)
        self._rewards = RewardWatch(trainer, shield)
        self._losses = LossWatch(trainer, shield, self._say)
        if callable(getattr(trainer, SCORING, None)):
            self._scoring = Wrapped(trainer, SCORING, self._around_scoring)

    def _say(self, what: str) -> None:
        """Of what shows in training only that it cannot be read."""
        if what not in self.missing:
            self.missing.append(what)

    def detach(self) -> None:
        """Unwrap, and let go of the last step's tensors."""
        for watch in (self._rewards, self._losses):
            if watch is not None:
                watch.detach()
        if self._scoring is not None:
            self._scoring.restore()
        self._rewards = self._losses = self._scoring = None
        self._trainer = lambda: None
        self._generation = None
        self._generations, self._last_scored, self._trained_on = [], [], []

    def read(self, step: int, logs: Mapping[str, Any]) -> Observation:
        """The rollout if it was sampled for this step, what the step's loss saw, and what only the logs say."""
        trainer = self._trainer()
        if trainer is None or self._losses is None:
            return Observation(logged=canonical(logs, self._kind))
        generations = [g for g in self._generations if g.step == step - 1]
        is_called = self._losses.is_called
        passes = [p for p in self._losses.take() if p.step == step - 1]
        self._generations = []
        self.rollout_seconds, self._seconds = self._seconds, 0.0
        if self._generation is None:
            generations = self._trained_on_first(trainer, passes)
        if not is_called and lack_of_loss(trainer) is None:
            self._say(f"its loss does not call {logprobs_of(trainer)}")
        if passes and all(p.entropy is None for p in passes):
            self._say(f"its {logprobs_of(trainer)} gives no entropies")

        def read_tensors() -> tuple[Rollout | None, PolicyUpdate | None]:
            return rollout_of(generations, passes), update_of(trainer, passes) if passes else None

        return Observation({}, read_tensors, canonical(logs, self._kind))

    # Around the trainer's methods.

    def _around_scoring(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def generate_and_score_completions(*args: Any, **kwargs: Any) -> Any:
            if self._losses is not None:
                self._losses.take_scored()
            start = time.perf_counter()
            output = original(*args, **kwargs)
            if is_training(self._trainer()):
                self._seconds += time.perf_counter() - start
            with self._shield.at("reading a rollout"):
                self._keep_generation(output)
            return output

        return generate_and_score_completions

    def _keep_generation(self, output: Any) -> None:
        trainer = self._trainer()
        if self._rewards is None or self._losses is None:
            return
        scored, batches = self._losses.take_scored(), self._rewards.take()
        if not is_training(trainer):
            return
        parts = list(output) if isinstance(output, (list, tuple)) else [output]  # ms-swift's are micro-batches
        parts = [batch_of(part, trainer) for part in parts]
        lacks = what_lacks(parts)
        if lacks:
            self._say(f"its {SCORING} returns a {type(output).__name__} {lacks}")
            return
        generation = generation_of(trainer, int(trainer.state.global_step), parts)
        if self._kind == "rloo" and scored:
            # TRL keeps the sums of these only: the policy's come first, the reference's second.
            policy, *reference = [align(keys, logprobs, generation.keys) for keys, logprobs in scored[:2]]
            generation.old_logprobs = policy
            if reference and trainer.beta != 0.0:
                generation.ref_logprobs, generation.kl_penalty = reference[0], float(trainer.beta)
        obstacle = with_rewards(generation, trainer, batches)
        if obstacle is not None:
            self._say(obstacle)
        self._generations = [g for g in self._generations if g.step == generation.step] + [generation]
        self._generation = self._losses.generation = generation

    def _trained_on_first(self, trainer: Any, passes: list[LossPass]) -> list[Generation]:
        """What the losses of a step were given for the first time, as a generation."""
        self._trained_on = [known for known in self._trained_on if known() is not None]
        before = {id(known()) for known in self._trained_on}
        first = [p for p in passes if id(p.inputs["completion_ids"]) not in before]
        parts = [p.inputs for p in first]
        if self._rewards is not None:
            self._last_scored = self._rewards.take() or self._last_scored
        if not parts:
            return []
        self._trained_on += [weakref.ref(part["completion_ids"]) for part in parts]
        generation = generation_of(trainer, passes[0].step, parts)
        for one in first:
            # With log-probabilities of its own it may have been sampled with other weights.
            if one.inputs.get("old_per_token_logps") is None and OF_COMPLETIONS not in one.inputs:
                one.generation = generation
        obstacle = with_rewards(generation, trainer, self._last_scored) if self._last_scored else NOT_SCORED
        if obstacle is not None:
            self._say(obstacle)
        return [generation]


def generation_of(trainer: Any, step: int, parts: Sequence[Mapping[str, Any]]) -> Generation:
    """Batches that were sampled with the weights of a step as one generation."""
    hides_truncated = bool(getattr(trainer, "mask_truncated_completions", False))
    made = Generation(step, stacked(parts), stop_ids=stop_ids(trainer), hides_truncated=hides_truncated)
    made.keys = torch.cat([keys_of(part) for part in parts])
    return made


def rollout_of(generations: list[Generation], passes: list[LossPass]) -> Rollout | None:
    """What was sampled for a step, None where nothing was; `passes` are those of the step's loss."""
    rollouts, groups = [], 0
    for generation in generations:
        kept = generation.output.get("old_per_token_logps") is not None or generation.old_logprobs is not None
        # Where they are kept, the loss of this step may have seen a part of the rows only.
        first = [] if kept else [p for p in passes if p.generation is generation and p.is_first]
        keys, logprobs, entropy = [p.keys for p in first], [p.logprobs for p in first], [p.entropy for p in first]
        logprobs_then, entropy_then = at_sampling(generation, keys, logprobs, entropy)
        own = [p for p in passes if p.generation is generation]
        if generation.ref_logprobs is None and all(p.ref_logprobs is not None for p in own):
            (generation.ref_logprobs,) = at_sampling(generation, [p.keys for p in own], [p.ref_logprobs for p in own])
        if all(p.entropy is None for p in passes):
            # What is sampled would be taken for an estimate of it, and the key would have two meanings.
            entropy_then = torch.full_like(generation.mask, math.nan, dtype=torch.float32)
        rollouts.append(generation.rollout(logprobs_then, entropy_then, groups))
        groups += generation.groups
    return joined(rollouts) if rollouts else None


def what_is_missing(trainer: Any) -> list[str]:
    """What this trainer lacks of what is read."""
    missing = []
    logprobs = logprobs_of(trainer)
    if not callable(getattr(trainer, SCORING, None)) and not callable(getattr(trainer, logprobs, None)):
        return [f"it has neither {SCORING} nor {logprobs}"]
    if not callable(getattr(trainer, REWARDS, None)) and "rewards" not in logs_of(trainer):
        missing.append(f"it has neither {REWARDS} nor _logs['rewards']")
    loss = lack_of_loss(trainer)
    return missing if loss is None else [*missing, loss]


def lack_of_loss(trainer: Any) -> str | None:
    """Why what the loss computes cannot be read; None where it can."""
    if not callable(getattr(trainer, logprobs_of(trainer), None)):
        return f"it has no {logprobs_of(trainer)}"
    if getattr(trainer, "use_liger_kernel", False) and hasattr(trainer, "liger_loss"):
        return "its fused loss never computes log-probabilities"
    return None


def rows_per_rank(trainer: Any) -> int:
    """Most completions of a rank in one step: those that are sampled or those that are trained on."""
    args = trainer.args
    micro = int(getattr(args, "train_batch_size", None) or args.per_device_train_batch_size)
    steps = int(getattr(args, "steps_per_generation", None) or accumulated(trainer))
    generations = -(-accumulated(trainer) // micro_batches_between(trainer))
    return micro * max(accumulated(trainer), generations * steps)
