"""Whether completions repeat each other or themselves, from token ids.

| key | formula |
|---|---|
| rldk/diversity/unique_fraction | distinct completions / completions |
| rldk/diversity/distinct_1, distinct_2 | mean over completions of distinct n-grams / n-grams (Li et al. 2016) |
| rldk/diversity/within_group_overlap | mean over groups of the mean over pairs of Jaccard's similarity of bigram sets |
| rldk/diversity/repetition | mean over completions of longest repeated n-gram / tokens |

An n-gram is repeated if it occurs at two places of one completion, which may overlap: "a a a a" has "a a a" twice.
Jaccard's similarity is |A and B| / |A or B|. Completions without tokens are left out everywhere, those of one token
have no bigrams. A completion's identity travels as a 48-bit hash in two columns, each exact in float32 too. The
overlap is estimated from 16 min-hashes a completion (Broder 1997): two completions agree in each with a probability
of their similarity, so that the mean over the 16 is unbiased, with a standard error of at most 0.125 for one pair.
The hash functions are fixed, the same in every process.
"""

from __future__ import annotations

import math
import random

import numpy as np
import torch
from torch import Tensor

from rldk_tracking.metrics.groups import Groups
from rldk_tracking.metrics.table import Table, precise
from rldk_tracking.rollout import Rollout

SIGNATURE = tuple(f"diversity/min_hash_{index:02d}" for index in range(16))
COLUMNS = (
    "diversity/hash_high",
    "diversity/hash_low",
    "diversity/distinct_1",
    "diversity/distinct_2",
    "diversity/repetition",
    *SIGNATURE,
)

LARGEST_PRODUCT = 2**20
"""Elements of the products with several hash functions at once: fewer operations for small batches, no more memory
for large ones."""

_LARGEST = 2**63 - 1
_LOW_24_BITS = 2**24 - 1
_constants = random.Random(20240229)  # noqa: S311 (fixed hash functions, no secret)
_SIGNATURE_FACTORS = [_constants.getrandbits(62) * 2 + 1 for _ in SIGNATURE]
_BASE = _constants.getrandbits(62) * 2 + 1


def columns(rollout: Rollout) -> dict[str, Tensor]:
    """(B,) hashes and shares; NaN where a completion is too short for them. Empty without token ids."""
    if rollout.token_ids is None:
        return {}
    tokens, mask = _left_aligned(rollout.token_ids.long(), rollout.mask.bool())
    length = mask.sum(dim=1)
    # Tokens and bigrams, the last of which is none, one beside the other: each operation is called once for both.
    after = torch.nn.functional.pad(tokens[:, 1:], (0, 1))[:, : tokens.shape[1]]
    pairs = mask & (torch.arange(mask.shape[1], device=mask.device) < length[:, None] - 1)
    grams = torch.stack([tokens, (tokens << 32) + after])
    scrambled = _scrambled(grams)
    distinct = _distinct(grams, torch.stack([mask, pairs]))
    prefix = _prefix_hashes(scrambled[0], mask)
    identity = _scrambled(prefix[:, -1])
    high, low = (identity >> 40) & _LOW_24_BITS, (identity >> 16) & _LOW_24_BITS
    one = torch.ones_like(length)
    numbers = precise(torch.stack([high, low, *distinct, _longest_repeated(prefix, mask)]))
    numbers /= torch.stack([one, one, length, length - 1, length])
    numbers = numbers.masked_fill(length == 0, math.nan)
    return dict(zip(COLUMNS, numbers, strict=False)) | _signature(scrambled[1], pairs)


def compute(table: Table) -> dict[str, float]:
    """The keys of this group that exist for this table."""
    metrics = {}
    high, low = table.get("diversity/hash_high"), table.get("diversity/hash_low")
    if high is not None and low is not None:
        known = np.isfinite(high) & np.isfinite(low)
        identities = high[known] * 2.0**24 + low[known]
        metrics["rldk/diversity/unique_fraction"] = len(np.unique(identities)) / len(identities)
    for name in ("distinct_1", "distinct_2", "repetition"):
        values = table.get(f"diversity/{name}")
        if values is not None:
            metrics[f"rldk/diversity/{name}"] = float(np.nanmean(values[np.isfinite(values)]))
    overlap = _overlap(table)
    if overlap is not None:
        metrics["rldk/diversity/within_group_overlap"] = overlap
    return metrics


def _overlap(table: Table) -> float | None:
    group_ids, columns = table.get("reward/group"), [table.get(name) for name in SIGNATURE]
    signature = np.array([column for column in columns if column is not None])
    if group_ids is None or len(signature) < len(SIGNATURE):
        return None
    known = np.isfinite(group_ids) & np.isfinite(signature).all(axis=0)
    groups, signature = Groups.of(group_ids[known], signature[0, known]), signature[:, known]
    several = groups.size > 1
    if not several.any():
        return None
    # One number for each hash function, group and least hash; those that occur twice are pairs that agree.
    of_function = np.arange(len(SIGNATURE))[:, None] * len(groups.size) + groups.labels
    places, counts = np.unique(of_function * 2.0**24 + signature + 2.0**23, return_counts=True)
    same = np.bincount((places // 2**24).astype(np.intp), weights=counts * (counts - 1.0))
    pairs = groups.size * (groups.size - 1)
    return float((same.reshape(len(SIGNATURE), -1)[:, several] / pairs[several]).mean())


def _left_aligned(tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens of the mask moved to the front, in their order: a mask may have holes (a tool's output, padding)."""
    order = (~mask).to(torch.uint8).argsort(dim=1, stable=True)
    return tokens.gather(1, order), mask.gather(1, order)


def _distinct(values: Tensor, mask: Tensor) -> Tensor:
    """(..., B) How many different values there are under the (..., B, T) mask, of integers not close to 2^63."""
    count = values.shape[-1]
    if count == 0:
        return mask.sum(dim=-1)
    ordered = _sorted(torch.where(mask, values, _fillers(count, values.device)))
    different = (ordered[..., 1:] != ordered[..., :-1]).sum(dim=-1) + 1
    return different - count + mask.sum(dim=-1)


def _fillers(count: int, device: torch.device) -> Tensor:
    """(count,) The largest integers, all different, which stand where a mask is not."""
    return _LARGEST - torch.arange(count, device=device)


def _sorted(values: Tensor) -> Tensor:
    """Each row in ascending order. On the host numpy's vectorised sort is ten times as fast as torch's."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.sort(values.numpy(), axis=-1))
    return values.sort(dim=-1).values


def _wrapped(constant: int) -> int:
    """A 64-bit constant as the signed number that torch takes it for."""
    return constant - 2**64 if constant >= 2**63 else constant


def _scrambled(values: Tensor) -> Tensor:
    """A fixed random-looking 64-bit number for each integer (the finaliser of splitmix64, Steele et al. 2014)."""
    values = values + _wrapped(0x9E3779B97F4A7C15)
    values = (values ^ _shifted(values, 30)) * _wrapped(0xBF58476D1CE4E5B9)
    values = (values ^ _shifted(values, 27)) * _wrapped(0x94D049BB133111EB)
    return values ^ _shifted(values, 31)


def _shifted(values: Tensor, bits: int) -> Tensor:
    """Shifted right with zeros from the left; torch's own shift of a signed integer repeats the sign."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)


def _prefix_hashes(scrambled: Tensor, mask: Tensor) -> Tensor:
    """(B, T + 1) sum over the first i tokens of token * base^position, modulo 2^64 (tokens lie at the front)."""
    powers = _powers(scrambled.shape[1], scrambled.device)
    terms = (scrambled * powers[:-1]).masked_fill(~mask, 0)
    return torch.nn.functional.pad(terms.cumsum(dim=1), (1, 0))


def _powers(count: int, device: torch.device) -> Tensor:
    """(count + 1,) powers of the base from the zeroth on, modulo 2^64."""
    base = torch.full((count + 1,), _wrapped(_BASE), dtype=torch.int64, device=device)
    base[0] = 1
    return base.cumprod(dim=0)


def _longest_repeated(prefix: Tensor, mask: Tensor) -> Tensor:
    """(B,) Length of the longest n-gram that occurs at two places.

    If an n-gram occurs twice then so do its parts, so the length is found by bisection, all completions at once.
    Windows are compared by their hash, which is brought to a common position by a power of the base.
    """
    count = mask.shape[1]
    device = prefix.device
    lengths = mask.sum(dim=1)
    low, high = torch.zeros_like(lengths), (lengths - 1).clamp(min=0)
    start, fillers = torch.arange(count, device=device), _fillers(count, device)
    align = _powers(count, device).flip(0)[:-1]
    first, ends = prefix[:, :-1], lengths[:, None]
    for _ in range(max(count - 1, 0).bit_length()):
        middle = (low + high + 1) >> 1
        stop = start + middle[:, None]
        windows = (prefix.gather(1, stop.clamp(max=count)) - first) * align
        ordered = _sorted(torch.where(stop <= ends, windows, fillers))
        twice = (ordered[:, 1:] == ordered[:, :-1]).any(dim=1)
        low = torch.where(twice, middle, low)
        high = torch.where(twice, high, middle - 1)
    return low


def _signature(bigrams: Tensor, pairs: Tensor) -> dict[str, Tensor]:
    """(B,) The least hash of a completion's bigrams under each of 16 hash functions; NaN where it has none."""
    if bigrams.shape[1] == 0:
        nothing = precise(bigrams).sum(dim=1)
        return {name: torch.full_like(nothing, math.nan) for name in SIGNATURE}
    none = ~pairs.any(dim=1)
    # Repeating a bigram does not change a least hash. Bigrams lie at the front, so the first one is there if any is.
    bigrams = torch.where(pairs, bigrams, bigrams[:, :1])
    factors = torch.tensor(_SIGNATURE_FACTORS).to(bigrams.device, non_blocking=True)
    at_once = max(1, min(len(SIGNATURE), LARGEST_PRODUCT // max(1, bigrams.numel())))
    parts = [(part[:, None, None] * bigrams).amin(dim=2) for part in torch.split(factors, at_once)]
    least = precise(torch.cat(parts) >> 40).masked_fill(none, math.nan)
    return dict(zip(SIGNATURE, least, strict=True))
