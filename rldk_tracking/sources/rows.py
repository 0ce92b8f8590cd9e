"""Finding the same completion in two orders, on the device and without waiting for it.

TRL shuffles a rollout before it is trained on. A row's key is a hash of its tokens, so that what the loss computed
for shuffled micro-batches can be put back in the order in which rewards were given. Rows with the same tokens are
interchangeable: one policy gives them the same log-probabilities.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def row_keys(token_ids: Tensor) -> Tensor:
    """(B, L) integers to (B,) int64 hashes, modulo 2^64. Two different rows collide once in about 10^18."""
    return ((token_ids.long() + 1) * _weights(token_ids.shape[1], token_ids.device)).sum(dim=1)


@lru_cache(maxsize=4)
def _weights(length: int, device: torch.device) -> Tensor:
    """(length,) well mixed numbers, made on the device so that nothing is copied there."""
    weights = torch.arange(1, length + 1, device=device) * 0x1E3779B97F4A7C15
    weights = (weights ^ (weights >> 30)) * 0x3F58476D1CE4E5B9
    weights = (weights ^ (weights >> 27)) * 0x14D049BB133111EB
    return weights ^ (weights >> 31)


def match(keys: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Where each wanted key stands.

    Args:
        keys: (M,), at least one.
        wanted: (N,).

    Returns:
        (N,) index into `keys`, and (N,) bool, False where the key is not there and the index means nothing.
    """
    order = keys.argsort()
    ranked = keys[order]
    place = torch.searchsorted(ranked, wanted).clamp(max=len(keys) - 1)
    return order[place], ranked[place] == wanted


def align(keys: Tensor, values: Tensor, wanted: Tensor) -> Tensor:
    """(N, T): the row of `values`, (M, T), that stands at each wanted key, NaN where there is none."""
    if len(keys) == 0:
        return values.new_full((len(wanted), values.shape[1]), torch.nan)
    index, found = match(keys, wanted)
    return values[index].masked_fill(~found[:, None], torch.nan)


def pad_right(tensor: Tensor, length: int) -> Tensor:
    """(B, T) with zeros appended up to (B, length); tensors of one dimension stay as they are."""
    missing = length - tensor.shape[-1]
    return tensor if tensor.ndim < 2 or missing <= 0 else torch.nn.functional.pad(tensor, (0, missing))


def stack_rows(parts: list[Tensor | None]) -> Tensor | None:
    """Batches one below the other, padded to the longest; None where one of them is."""
    tensors = [part for part in parts if part is not None]
    if not tensors or len(tensors) < len(parts):
        return None
    if len(tensors) == 1:
        return tensors[0]
    if any(tensor.ndim != tensors[0].ndim for tensor in tensors):
        return None
    length = max(tensor.shape[-1] for tensor in tensors)
    return torch.cat([pad_right(tensor, length) for tensor in tensors])
