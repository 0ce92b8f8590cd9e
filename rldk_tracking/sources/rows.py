"""Finding the same completion in two orders, on the device and without waiting for it.

TRL shuffles a rollout before it is trained on. A row's key is a hash of its tokens, so that what the loss computed
for shuffled micro-batches can be put back in the order in which rewards were given. Rows with the same tokens are
interchangeable: one policy gives them the same log-probabilities.
"""

from __future__ import annotations

import torch
from torch import Tensor


def row_keys(token_ids: Tensor) -> Tensor:
    """(B, L) integers to (B,) int64 hashes, modulo 2^64. Two different rows collide once in about 10^18."""
    weights = torch.arange(1, token_ids.shape[1] + 1, device=token_ids.device) * 0x1E3779B97F4A7C15
    weights = (weights ^ (weights >> 30)) * 0x3F58476D1CE4E5B9
    weights = (weights ^ (weights >> 27)) * 0x14D049BB133111EB
    return ((token_ids.long() + 1) * (weights ^ (weights >> 31))).sum(dim=1)


def align(keys: Tensor, values: Tensor, wanted: Tensor) -> Tensor:
    """Pick for each wanted key the row of values that stands at the same key, NaN where there is none.

    Args:
        keys: (M,) of the rows of `values`.
        values: (M, T) floating.
        wanted: (N,).

    Returns:
        (N, T).
    """
    if len(keys) == 0:
        return values.new_full((len(wanted), values.shape[1]), torch.nan)
    order = keys.argsort()
    ranked = keys[order]
    place = torch.searchsorted(ranked, wanted).clamp(max=len(keys) - 1)
    found = ranked[place] == wanted
    return values[order[place]].masked_fill(~found[:, None], torch.nan)


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
