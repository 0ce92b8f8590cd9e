"""GRPO and RLOO: completions in groups of one prompt, read where the trainer makes and scores them.

Methods of the trainer instance are wrapped, and called as before. `_generate_and_score_completions` gives the rollout
in generation order, before it is shuffled; `_calculate_rewards`, within it, what each reward function returned (see
`reward_functions`); `_get_per_token_logps_and_entropies` gives, in the loss, the log-probabilities of the weights that
the optimiser step starts from; `loss_pass.SELECTIONS` which tokens it weighs.

Where the trainer computes no log-probabilities at sampling time, because no optimiser step lies between sampling and
the loss, those of the loss are the same numbers, and `Rollout.logprobs` holds them; ratios are then 1 by construction,
so `PolicyUpdate.old_logprobs` is None. Where ratios are computed but no step lies between, the clip range is None:
nothing can be clipped, and a share of 0 would say nothing.

Without the first method the rollout is read from `_buffered_inputs`, whose rows are shuffled, so that rewards and
groups cannot be told by completion. Without both only the logs are left.
"""

from __future__ import annotations

import functools
import logging
import math
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from rldk_tracking.isolation import Shield
from rldk_tracking.rollout import PolicyUpdate, Rollout
from rldk_tracking.sources.generation import Generation, at_sampling, joined, stack_rows
from rldk_tracking.sources.logs import Kind, Observation, canonical
from rldk_tracking.sources.loss_pass import SELECTIONS, LossPass, detached, update_of
from rldk_tracking.sources.reward_functions import REWARDS, RewardWatch
from rldk_tracking.sources.scoring import with_rewards
from rldk_tracking.sources.wrapping import SCORING, Wrapped

logger = logging.getLogger(__name__)

LOGPROBS = "_get_per_token_logps_and_entropies"
MEASURED = ("rldk/reward/", "rldk/kl/", "rldk/length/", "rldk/policy/", "rldk/sampler/", "rldk/throughput/")
"""Groups that are measured for the one step, where the logs hold means over several."""
CLIPPING = "rldk/policy/clip_fraction"
NO_ROLLOUT = "no rldk/advantage/, rldk/diversity/, and of rewards, lengths and KL the logs' alone"
GOES_AROUND = f"its loss does not call {LOGPROBS} (no rldk/policy/ ratios, no rldk/kl/ beyond the logs')"


class GroupSource:
    """Reads TRL's GRPOTrainer and RLOOTrainer and trainers derived from them. See `Source`.

    Attributes:
        shield: keeps faults of the reading from the trainer, whose methods it happens in.
    """

    honours_stop = True

    def __init__(self, trainer: Any) -> None:
        self.missing: list[str] = []
        self.shield = Shield()
        self.rows_per_rank = rows_per_rank(trainer)
        self.rollout_seconds: float | None = None
        self._kind: Kind = (
            "rloo" if any(cls.__name__.endswith("RLOOTrainer") for cls in type(trainer).__mro__) else "grpo"
        )
        self._trainer: Callable[[], Any] = lambda: None
        self._wrapped: list[Wrapped] = []
        self._generation: Generation | None = None
        self._generations: list[Generation] = []
        self._passes: list[LossPass] = []
        self._scored: list[Tensor] = []
        self._seconds = 0.0
        self._buffer: Callable[[], Any] = lambda: None
        self._rewards: RewardWatch | None = None
        self._logged: tuple[str, ...] = ()
        """Groups of which the logs' numbers are taken, because they cannot all be measured."""

    def attach(self, trainer: Any, args: Any) -> None:
        """Wrap the methods; say once what is not there."""
        self.detach()
        self._trainer = weakref.ref(trainer)
        self.missing = what_is_missing(trainer)
        self._logged = MEASURED if self.missing else ()
        self._rewards = RewardWatch(trainer, self.shield)
        selections = [(name, self._around_selection) for name in SELECTIONS]
        for name, around in ((SCORING, self._around_scoring), (LOGPROBS, self._around_logprobs), *selections):
            if callable(getattr(trainer, name, None)):
                self._wrapped.append(Wrapped(trainer, name, around))
        if self.missing:
            logger.warning("rldk: %s cannot be read whole: %s.", type(trainer).__name__, "; ".join(self.missing))

    def _say(self, trainer: Any, what: str, *groups: str) -> None:
        """Say once what shows in training only that it cannot be read; the logs' numbers take its place."""
        if what not in self.missing:
            self.missing.append(what)
            self._logged += groups
            logger.warning("rldk: %s cannot be read whole: %s.", type(trainer).__name__, what)

    def detach(self) -> None:
        """Unwrap, and let go of the last step's tensors."""
        for wrapped in self._wrapped:
            wrapped.restore()
        self._wrapped = []
        if self._rewards is not None:
            self._rewards.detach()
            self._rewards = None
        self._trainer = lambda: None
        self._generation = None
        self._generations, self._passes, self._scored = [], [], []

    def read(self, step: int, logs: Mapping[str, Any]) -> Observation:
        """The rollout if it was sampled for this step, what the step's loss saw, and what only the logs say."""
        trainer = self._trainer()
        if trainer is None:
            return Observation(scalars=canonical(logs, self._kind))
        generations = [g for g in self._generations if g.step == step - 1]
        passes = [p for p in self._passes if p.step == step - 1]
        self._generations, self._passes = [], []
        self.rollout_seconds, self._seconds = self._seconds, 0.0
        if not callable(getattr(trainer, SCORING, None)):
            generations = self._unread_buffer(trainer, step)
        if not passes and lack_of_loss(trainer) is None:
            self._say(trainer, GOES_AROUND, "rldk/policy/", "rldk/kl/")

        def read_tensors() -> tuple[Rollout | None, PolicyUpdate | None]:
            return rollout_of(generations, passes), update_of(trainer, passes) if passes else None

        return Observation(self._scalars(trainer, logs), read_tensors)

    def _scalars(self, trainer: Any, logs: Mapping[str, Any]) -> dict[str, float]:
        found = canonical(logs, self._kind, reward_std_within_groups=False)
        clipping = {key: value for key, value in found.items() if key.startswith(CLIPPING)}
        found = {key: value for key, value in found.items() if not key.startswith(CLIPPING)}
        measured = tuple(group for group in MEASURED if group not in self._logged)
        found = {key: value for key, value in found.items() if not key.startswith(measured)}
        return found if "rldk/policy/" in measured or is_aligned(trainer) else found | clipping

    # Around the trainer's methods.

    def _around_scoring(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def generate_and_score_completions(*args: Any, **kwargs: Any) -> Any:
            self._scored = []
            start = time.perf_counter()
            output = original(*args, **kwargs)
            if self._is_training():
                self._seconds += time.perf_counter() - start
            with self.shield.at("reading a rollout"):
                self._keep_generation(output)
            return output

        return generate_and_score_completions

    def _around_logprobs(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def get_per_token_logps_and_entropies(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            with self.shield.at("reading log-probabilities"):
                self._keep_logprobs(result, args, kwargs)
            return result

        return get_per_token_logps_and_entropies

    def _around_selection(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def select(*args: Any, **kwargs: Any) -> Any:
            mask = original(*args, **kwargs)
            kept = detached(mask)
            if self._is_training() and self._passes and kept is not None:
                self._passes[-1].selections.append(kept)
            return mask

        return select

    def _is_training(self) -> bool:
        """False in an evaluation."""
        trainer = self._trainer()
        return trainer is not None and bool(trainer.model.training)

    def _keep_generation(self, output: Any) -> None:
        trainer = self._trainer()
        scored, self._scored = self._scored, []
        batches = [] if self._rewards is None else self._rewards.take()
        if not self._is_training():
            return
        if not isinstance(output, Mapping):  # ms-swift's returns a list of micro-batches
            self._say(trainer, f"its {SCORING} returns a {type(output).__name__} ({NO_ROLLOUT})", *MEASURED)
            return
        step = int(trainer.state.global_step)
        hides_truncated = bool(getattr(trainer, "mask_truncated_completions", False))
        generation = Generation(step, dict(output), stop_ids=stop_ids(trainer), hides_truncated=hides_truncated)
        if self._kind == "rloo" and scored:
            # TRL keeps the sums of these only: the policy's come first, the reference's second.
            generation.old_logprobs = scored[0]
            if len(scored) > 1 and trainer.beta != 0.0:
                generation.ref_logprobs, generation.kl_penalty = scored[1], float(trainer.beta)
        obstacle = with_rewards(generation, trainer, batches)
        if obstacle is not None:
            self._say(trainer, obstacle, "rldk/reward/")
        self._generations = [g for g in self._generations if g.step == step] + [generation]
        self._generation = generation

    def _keep_logprobs(self, result: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        trainer = self._trainer()
        if not self._is_training():
            return
        logprobs = detached(result[0])
        if logprobs is None:
            return
        if not torch.is_grad_enabled():
            self._scored.append(logprobs)
            return
        step = int(trainer.state.global_step)
        inputs = trainer._buffered_inputs[trainer._step % len(trainer._buffered_inputs)]
        input_ids = kwargs["input_ids"] if "input_ids" in kwargs else args[1]
        found = LossPass(step, self._generation, inputs, input_ids, logprobs, detached(result[1]))
        self._passes = [p for p in self._passes if p.step == step] + [found]

    def _unread_buffer(self, trainer: Any, step: int) -> list[Generation]:
        """The trainer's shuffled buffer as a generation, once."""
        buffer = getattr(trainer, "_buffered_inputs", None)
        if not buffer or self._buffer() is buffer[0]["completion_ids"]:
            return []
        self._buffer = weakref.ref(buffer[0]["completion_ids"])
        names = [name for name, value in buffer[0].items() if isinstance(value, Tensor) and value.ndim > 0]
        output = {name: stack_rows([batch[name] for batch in buffer]) for name in names}
        hides_truncated = bool(getattr(trainer, "mask_truncated_completions", False))
        return [Generation(step - 1, output, stop_ids=stop_ids(trainer), hides_truncated=hides_truncated)]


def rollout_of(generations: list[Generation], passes: list[LossPass]) -> Rollout | None:
    """What was sampled for a step, None where nothing was; `passes` are those of the step's loss."""
    rollouts, groups = [], 0
    for generation in generations:
        kept = generation.output.get("old_per_token_logps") is not None or generation.old_logprobs is not None
        # Where they are kept, the loss of this step may have seen a part of the rows only.
        first = [] if kept else [p for p in passes if p.generation is generation and p.is_first]
        keys, logprobs, entropy = [p.keys for p in first], [p.logprobs for p in first], [p.entropy for p in first]
        logprobs_then, entropy_then = at_sampling(generation, keys, logprobs, entropy)
        if all(p.entropy is None for p in passes):
            # What is sampled would be taken for an estimate of it, and the key would have two meanings.
            entropy_then = torch.full_like(generation.mask, math.nan, dtype=torch.float32)
        rollouts.append(generation.rollout(logprobs_then, entropy_then, groups))
        groups += generation.groups
    return joined(rollouts) if rollouts else None


def what_is_missing(trainer: Any) -> list[str]:
    """What of this trainer cannot be read, each with the keys that will lack."""
    missing = []
    if not callable(getattr(trainer, SCORING, None)):
        if hasattr(trainer, "_buffered_inputs"):
            missing.append(
                f"it has no {SCORING}, so rewards cannot be told by completion (no rldk/reward/ keys beyond the logs')"
            )
        else:
            missing.append(f"it has neither {SCORING} nor _buffered_inputs, so only the logs' keys will be there")
    elif not callable(getattr(trainer, REWARDS, None)) and "rewards" not in (getattr(trainer, "_logs", None) or {}):
        missing.append(f"it has neither {REWARDS} nor _logs['rewards'] (no rldk/reward/ keys beyond the logs')")
    loss = lack_of_loss(trainer)
    return missing if loss is None else [*missing, loss]


def lack_of_loss(trainer: Any) -> str | None:
    """Why what the loss computes cannot be read, with the keys that will lack; None where it can."""
    if not callable(getattr(trainer, LOGPROBS, None)) or not hasattr(trainer, "_buffered_inputs"):
        return f"it has no {LOGPROBS} (no rldk/policy/ ratios and entropy beyond the logs')"
    if getattr(trainer, "use_liger_kernel", False) and hasattr(trainer, "liger_loss"):
        return "its fused loss never computes log-probabilities (no rldk/policy/ ratios, no rldk/kl/ on-policy)"
    return None


def rows_per_rank(trainer: Any) -> int:
    """Most completions of a rank in one step: those that are sampled or those that are trained on."""
    args = trainer.args
    micro = int(getattr(args, "train_batch_size", None) or args.per_device_train_batch_size)
    accumulated = int(args.gradient_accumulation_steps)
    steps = int(getattr(args, "steps_per_generation", None) or accumulated)
    period = steps * int(getattr(trainer, "num_iterations", 1))
    generations = -(-accumulated // period)
    return micro * max(accumulated, generations * steps)


def is_aligned(trainer: Any) -> bool:
    """Whether no optimiser step ever lies between sampling and the loss, so that nothing can be clipped."""
    args = trainer.args
    steps = getattr(args, "steps_per_generation", None)
    if steps is None:
        return False
    return int(args.gradient_accumulation_steps) % (int(steps) * int(getattr(trainer, "num_iterations", 1))) == 0


def stop_ids(trainer: Any) -> tuple[int, ...]:
    """Tokens that say a completion has ended: those that end it, and at the end the padding token."""
    tokenizer = getattr(trainer, "_tokenizer", None) or getattr(trainer, "processing_class", None)
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
    ends = getattr(trainer, "eos_token_ids", None) or [getattr(tokenizer, "eos_token_id", None)]
    padding = getattr(tokenizer, "pad_token_id", None)
    return () if padding is None else (*(int(token) for token in ends if token is not None), int(padding))
