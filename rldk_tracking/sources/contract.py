"""What trainers should bring: the fields of a `Rollout` and a `PolicyUpdate` that they have as they are configured.

The series of a trainer's contract are those that a batch with these fields has, and single numbers that only the
trainer knows. What its configuration rules out is no part of it: a divergence with beta = 0, a clip fraction where no
optimiser step lies between sampling and the loss, a correlation of one reward function.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rldk_tracking.metrics.preference import DRIFTS
from rldk_tracking.metrics.preference import LOGGED as PREFERENCE
from rldk_tracking.sources.batches import tokenizer_of
from rldk_tracking.sources.loss_pass import clip_range, is_rloo
from rldk_tracking.sources.scoring import reward_names, weights_of

SAMPLES = ("reward_funcs", "rollout_worker", "generation_config", "_generate_and_score_completions", "_generate")
"""What a trainer that samples completions has, in TRL and its relatives."""
LOSS = "rldk/train/loss"
ENTROPY, TOKEN_ACCURACY = "rldk/train/entropy", "rldk/train/token_accuracy"
ACCURACY, MARGIN = "rldk/preference/accuracy", "rldk/preference/margin"


@dataclass(frozen=True)
class Contract:
    """What a trainer should bring as it is configured.

    Attributes:
        rollout: fields of a `Rollout`; empty where it samples nothing.
        update: fields of a `PolicyUpdate`, beside those that every loss has.
        numbers: keys of numbers that only the trainer knows.
        functions: its reward functions' names to their weights, None where that is not known.
        period: optimiser steps from one rollout to the next.
        hides_truncated: whether it takes truncated completions out of the loss, so that a batch may have nothing left.
    """

    rollout: frozenset[str] = frozenset()
    update: frozenset[str] = frozenset()
    numbers: frozenset[str] = frozenset()
    functions: Mapping[str, float | None] = field(default_factory=dict)
    period: int = 1
    hides_truncated: bool = False


def contract_of(trainer: Any) -> Contract:
    """Of a trainer of which no more is known than what it has."""
    if signs_of_sampling(trainer):
        return of_completions(trainer)
    return Contract(numbers=frozenset({LOSS, *_of_texts(trainer)}))


def with_completions(contract: Contract) -> Contract:
    """Of a trainer whose log holds rewards, and which shows in no other way that it samples completions.

    >>> sorted(with_completions(Contract()).rollout - {"mask", "token_ids"})
    ['advantages', 'logprobs', 'scores', 'truncated']
    """
    return replace(contract, rollout=frozenset({"mask", "token_ids", "logprobs", "scores", "advantages", "truncated"}))


def signs_of_sampling(trainer: Any) -> list[str]:
    """Which of `SAMPLES` it has."""
    return [name for name in SAMPLES if getattr(trainer, name, None) not in (None, [])]


def of_completions(trainer: Any) -> Contract:
    """Of a trainer that samples completions, and learns from rewards of them."""
    functions = getattr(trainer, "reward_funcs", None) or ()
    names = reward_names(trainer, len(functions) if isinstance(functions, (list, tuple)) else 1)
    weights = weights_of(trainer, names)
    beta = getattr(trainer, "beta", getattr(getattr(trainer, "args", None), "beta", None))
    is_product, aligned = is_rloo(trainer), is_aligned(trainer)
    rollout = {
        "mask": True,
        "token_ids": True,
        "logprobs": True,
        "ref_logprobs": bool(beta),
        "sampler_logprobs": all(
            getattr(trainer, name, False) for name in ("use_vllm", "vllm_importance_sampling_correction")
        ),
        "scores": bool(weights),
        "rewards": bool(names),
        "non_score_rewards": is_product and bool(beta),
        "advantages": bool(names),
        "group_ids": (getattr(trainer, "num_generations", None) or 1) > 1,
        "truncated": bool(stop_ids(trainer)),
    }
    low, high = clip_range(trainer)
    update = {
        "old_logprobs": is_product or not aligned,
        "clip_low": low is not None and not aligned,
        "clip_high": high is not None and not aligned,
    }
    return Contract(
        rollout=frozenset(name for name, is_there in rollout.items() if is_there),
        update=frozenset(name for name, is_there in update.items() if is_there),
        numbers=frozenset({LOSS}),
        functions={name: weights.get(name) for name in names},
        period=-(-micro_batches_between(trainer) // accumulated(trainer)),
        hides_truncated=bool(getattr(trainer, "mask_truncated_completions", False)),
    )


def _of_texts(trainer: Any) -> set[str]:
    """The numbers of training on given texts, which may be chosen and rejected, or labelled so."""
    columns = getattr(getattr(trainer, "train_dataset", None), "column_names", None) or ()
    compares = all(any(name.startswith(word) for name in columns) for word in ("chosen", "rejected"))
    if not isinstance(getattr(trainer, "beta", None), (int, float)):
        keeps_more = hasattr(trainer, "_metrics") and "label" not in columns  # as of TRL's SFT
        return {ACCURACY, MARGIN} if compares else {ENTROPY, TOKEN_ACCURACY} if keeps_more else set()
    has_labels = "label" in columns and not compares
    if not (compares or has_labels or hasattr(trainer, "ref_model")):  # the last as ms-swift's, which encodes late
        return set()
    has_reference = hasattr(trainer, "ref_model") and not getattr(trainer, "reference_free", False)
    found = {*PREFERENCE.values(), *(DRIFTS.values() if has_reference else ())}
    if hasattr(trainer, "ref_model"):  # TRL's DPO logs them from 0.29 on, its KTO the first from 1.9 on
        found |= {ENTROPY, TOKEN_ACCURACY}
    return found - {ACCURACY, TOKEN_ACCURACY} if has_labels else found


def accumulated(trainer: Any) -> int:
    """Micro-batches of an optimiser step."""
    return int(getattr(getattr(trainer, "args", None), "gradient_accumulation_steps", None) or 1)


def micro_batches_between(trainer: Any) -> int:
    """Micro-batches from one rollout of GRPO or RLOO to the next."""
    steps = getattr(getattr(trainer, "args", None), "steps_per_generation", None) or accumulated(trainer)
    return int(steps) * int(getattr(trainer, "num_iterations", None) or 1)


def is_aligned(trainer: Any) -> bool:
    """Whether no optimiser step ever lies between sampling and the loss, so that nothing can be clipped."""
    return accumulated(trainer) % micro_batches_between(trainer) == 0


def stop_ids(trainer: Any) -> tuple[int, ...]:
    """Tokens that say a completion has ended: those that end it, and at the end the padding token."""
    tokenizer = tokenizer_of(trainer)
    ends = getattr(trainer, "eos_token_ids", None) or [getattr(tokenizer, "eos_token_id", None)]
    padding = getattr(tokenizer, "pad_token_id", None)
    return () if padding is None else (*(int(token) for token in ends if token is not None), int(padding))
