"""Batches of other packages' trainers with the names and the layout of TRL's.

ms-swift's micro-batches hold their tensors in a mapping for the model and an object for the loss. Prompt and completion
are one row, and the (B, T) tensors are of the row's last T tokens, which may begin with the end of a prompt.

Unsloth's log-probabilities are of rows whose padding on the left was moved to the right: they are (B, T + P), P being
the longest such padding, and a row's completion begins as far from the end of these P columns as it had padding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import Tensor

BY_ROW = ("prompt_ids", "completion_ids", "completion_mask")
"""Of a trainer's batch, (B, ...) each: what a rollout cannot be without."""

PER_TOKEN = ("old_per_token_logps", "ref_per_token_logps", "sampling_per_token_logps", "tool_mask")
OTHER_NAMES = {"rollout_per_token_logps": "sampling_per_token_logps"}
COLUMNS = "completion_columns"
"""(B, T): of each of a row's completion tokens the column in which the trainer's own tensors have it."""


def batch_of(given: Any, trainer: Any) -> Any:
    """A batch with TRL's names, its completions from the first column on; as it is given where that cannot be made.

    Args:
        given: what a trainer's method returned or was given: a mapping, or a list of one.
        trainer: whose tokenizer fills what no completion reaches.
    """
    inner = given[0] if isinstance(given, (list, tuple)) and len(given) == 1 else given
    if not isinstance(inner, Mapping):
        return given
    batch: dict[str, Any] = {}
    for name, value in inner.items():
        nested = vars(value) if is_dataclass(value) else value if isinstance(value, Mapping) else {name: value}
        batch |= {OTHER_NAMES.get(own, own): one for own, one in nested.items()}
    mask, ids = batch.get("completion_mask"), batch.get("input_ids")
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        return batch
    if "completion_ids" not in batch and isinstance(ids, Tensor) and _are_rows_of(ids, mask):
        batch |= _cut(batch, mask.bool(), ids, padding_of(trainer))
    aligned = {name: completion_columns(batch, batch[name]) for name in PER_TOKEN if batch.get(name) is not None}
    return batch | aligned


def completion_columns(batch: Mapping[str, Any], values: Any) -> Any:
    """What a trainer has for the tokens of a batch in the layout of `batch_of`; anything else as it is.

    Args:
        batch: from `batch_of`.
        values: (B, T) or (B, T + P) as the trainer has them.
    """
    if not isinstance(values, Tensor) or values.ndim != 2:
        return values
    columns = batch.get(COLUMNS)
    length = batch["completion_mask"].shape[1]
    if columns is None:
        surplus = values.shape[1] - length
        if surplus <= 0 or "max_left_pad" not in batch:
            return values
        begin = surplus - (batch["prompt_mask"] == 0).sum(dim=1, keepdim=True)
        columns = begin + torch.arange(length, device=values.device)
    return values.gather(1, columns)


def what_lacks(parts: Sequence[Any]) -> str:
    """What keeps batches of a trainer's from being read, in words; empty where nothing does."""
    if not parts or not all(isinstance(part, Mapping) for part in parts):
        return "that holds no tensors by name"
    names = [name for name in BY_ROW if not all(isinstance(part.get(name), Tensor) for part in parts)]
    return f"without {', '.join(names)}" if names else ""


def tokenizer_of(trainer: Any) -> Any:
    """The tokenizer, also where it is a part of a processor; None of a trainer without one."""
    tokenizer = getattr(trainer, "_tokenizer", None) or getattr(trainer, "processing_class", None)
    return getattr(tokenizer, "tokenizer", tokenizer)


def padding_of(trainer: Any) -> int:
    """The token that fills a batch; 0 where the tokenizer has none."""
    return int(getattr(tokenizer_of(trainer), "pad_token_id", None) or 0)


def _are_rows_of(ids: Tensor, mask: Tensor) -> bool:
    return ids.ndim == 2 and len(ids) == len(mask) and ids.shape[1] >= mask.shape[1]


def _cut(batch: Mapping[str, Any], mask: Tensor, ids: Tensor, padding: int) -> dict[str, Any]:
    """Rows of prompt and completion, (B, L), cut into the two; `mask` is of their last T tokens."""
    columns = (~mask).int().argsort(dim=1, stable=True)
    ordered = mask.gather(1, columns)
    is_completion = torch.nn.functional.pad(mask, (ids.shape[1] - mask.shape[1], 0))
    attended = batch.get("attention_mask")
    found = {
        "prompt_ids": ids.masked_fill(is_completion, padding),
        "prompt_mask": ~is_completion if attended is None else attended.bool() & ~is_completion,
        "completion_ids": ids[:, -mask.shape[1] :].gather(1, columns).masked_fill(~ordered, padding),
        "completion_mask": ordered,
        COLUMNS: columns,
    }
    advantages = batch.get("advantages")
    if isinstance(advantages, Tensor) and advantages.ndim == 2 and batch.get("teacher_per_token_logps") is None:
        # Without a teacher it is one number a completion, written to each of its tokens.
        found["advantages"] = advantages[:, 0]
    return found
