"""What TRL's GRPO and RLOO trainers logged of the batch of completions that they have just scored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from rldk_tracking.sources.generation import Generation


def with_rewards(generation: Generation, trainer: Any) -> None:
    """Fill in rewards, groups and texts, where `trainer._logs` holds them.

    The logs are gathered over ranks, so they end with all ranks' rows of this batch, the ranks in order.
    """
    rows = len(generation.output["completion_ids"])
    ranks, rank = trainer.accelerator.num_processes, trainer.accelerator.process_index
    generation.first_row = rank * rows
    generation.num_generations = getattr(trainer, "num_generations", None)
    generation.all_rows = rows * ranks
    logs = getattr(trainer, "_logs", None)
    if not isinstance(logs, Mapping):
        return
    mine = slice(rank * rows, (rank + 1) * rows)
    for name, values in (logs.get("rewards") or {}).items():
        if len(values) >= rows * ranks:
            generation.rewards[name] = list(values)[-rows * ranks :][mine]
    generation.weights = _weights(trainer, list(generation.rewards))
    for name, field in (("prompt", "prompts"), ("completion", "completions")):
        texts = logs.get(name) or ()
        if len(texts) >= rows * ranks:
            setattr(generation, field, tuple(_text(t) for t in list(texts)[-rows * ranks :][mine]))


def stop_ids(trainer: Any) -> tuple[int, ...]:
    """Tokens that say a completion has ended: those that end it, and at the end the padding token."""
    tokenizer = getattr(trainer, "_tokenizer", None) or getattr(trainer, "processing_class", None)
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
    ends = getattr(trainer, "eos_token_ids", None) or [getattr(tokenizer, "eos_token_id", None)]
    padding = getattr(tokenizer, "pad_token_id", None)
    return () if padding is None else (*(int(token) for token in ends if token is not None), int(padding))


def _weights(trainer: Any, names: list[str]) -> dict[str, float]:
    weights = getattr(trainer, "reward_weights", None)
    if isinstance(weights, Tensor):
        weights = weights.tolist()
    known = list(getattr(trainer, "reward_func_names", []))
    if weights is None or len(weights) != len(known):
        return {}
    table = dict(zip(known, weights, strict=True))
    return {name: float(table[name]) for name in names if name in table}


def _text(message: Any) -> str:
    """A text, or the last turn of a conversation."""
    if isinstance(message, list) and message:
        message = message[-1]
    if isinstance(message, Mapping):
        message = message.get("content")
    return message if isinstance(message, str) else str(message)
