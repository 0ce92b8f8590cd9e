"""Whether completions repeat each other or themselves.

Keys, read by `rldk_tracking.metrics.keys`:

    rldk/diversity/unique_fraction | 1 | rollout | higher
        1 where no completion occurs twice.
        = distinct completions / completions; empty ones are completions, all the same one
    rldk/diversity/distinct_1 | 1 | rollout | higher
        Variety of tokens within a completion (Li et al. 2016).
        = mean over completions with tokens (a subsample of a large batch) of distinct tokens / tokens
    rldk/diversity/distinct_2 | 1 | rollout | higher
        Variety of pairs of tokens within a completion.
        = mean over completions of two tokens or more (a subsample of a large batch) of distinct bigrams / bigrams
    rldk/diversity/within_group_overlap | 1 | rollout | lower
        How alike the answers to one prompt are; 1 where they use the same bigrams.
        = mean over groups (a subsample of a large batch) and pairs in them of |A and B| / |A or B| of bigram sets,
        estimated from 16 min-hashes; without completions of fewer than two tokens
    rldk/diversity/repetition | 1 | rollout | lower
        How much completions repeat themselves; near 1 one phrase over and over.
        = mean over completions with tokens (a subsample of a large batch) of the longest n-gram that occurs twice /
        tokens

An n-gram is repeated if it occurs at two places of one completion, which may overlap: "a a a a" has "a a a" twice.
Jaccard's similarity is |A and B| / |A or B|. A completion without tokens has no n-grams and one of one token no
bigrams: the means are over the others. A completion's identity travels as a 48-bit hash in two columns, each exact in
float32 too. The overlap is from 16 min-hashes a completion (Broder 1997): two completions agree in each with a
probability of their similarity, so that the mean over the 16 is unbiased, with a standard error of at most 0.125 for
one pair. The hash functions are fixed, the same in every process.

unique_fraction is of all completions of a batch. The other keys of diversity are of a subsample where a rank has more
completions in a step than `max_rows(tokens)`: whole groups (the last may be cut), the first in a fixed order of the
group ids, or of the rows where there are no groups. The order does not depend on what completions say, so the means are
unbiased. Of g out of G groups of one size they have a standard error of

    sqrt((1 - g / G) / g) * (standard deviation over the G groups of the group's own value)

where a completion is a group of its own if there are none (Cochran 1977, eq. 2.20 and 9A.2). With several ranks each
one's subsample weighs by its own number of completions.
"""

from __future__ import annotations

import math
import random

import numpy as np
import torch
from torch import Tensor

from rldk_tracking.metrics.advantage import Groups
from rldk_tracking.metrics.columns import Table, precise
from rldk_tracking.metrics.statistics import Array
from rldk_tracking.rollout import Rollout

SIGNATURE = tuple(f"diversity/min_hash_{index:02d}" for index in range(16))
IDENTITY = ("diversity/hash_high", "diversity/hash_low")
REPEATS = ("diversity/repeats_1", "diversity/repeats_2", "diversity/longest_repeat")
COLUMNS = (*IDENTITY, *REPEATS, *SIGNATURE)
FIELDS = ("token_ids",)

MAX_TOKENS, MIN_ROWS = 2**14, 16
"""N-grams are counted in as many completions of a rank and step as make MAX_TOKENS with their padding, and in MIN_ROWS
at least."""
HOST_BITS, DEVICE_BITS = 2, 4
"""Binary digits of a length that are found at once. On the host work counts, on a device the number of operations."""
LARGEST_PRODUCT = 2**20
"""Elements of the products with several hash functions at once: fewer operations for small batches, no more memory
for large ones."""

_LOW_24_BITS = 2**24 - 1
_PADDING = 2**31 - 2**40
"""First of the numbers that stand for padding. No pair with one of them is as a pair of token ids, which lie below
2^31: bit 31 of its second number is set."""
_constants = random.Random(20240229)  # noqa: S311 (fixed hash functions, no secret)
_SIGNATURE_FACTORS = [[[_constants.getrandbits(62) * 2 + 1]] for _ in SIGNATURE]


def _wrapped(constant: int) -> int:
    """A 64-bit constant as the signed number that torch takes it for."""
    return constant - 2**64 if constant >= 2**63 else constant


_BASE = _wrapped(_constants.getrandbits(62) * 2 + 1)
_GOLDEN = _wrapped(0x9E3779B97F4A7C15)


def max_rows(tokens: int) -> int:
    """In how many completions, padded to this many tokens, n-grams are counted.

    >>> max_rows(512), max_rows(8192)
    (32, 16)
    """
    return max(MIN_ROWS, MAX_TOKENS // max(1, tokens))


def columns(rollout: Rollout) -> dict[str, Tensor]:
    """(B,) hashes of completions and numbers of their n-grams, NaN outside the subsample. Empty without token ids.

    What stands there for a completion that is too short for it means nothing.
    """
    if rollout.token_ids is None:
        return {}
    tokens, mask = rollout.token_ids.long(), rollout.mask.bool()
    if mask.shape[1] == 0:
        tokens, mask = (torch.nn.functional.pad(tensor, (0, 1)) for tensor in (tokens, mask))
    # The place of each token among those of the mask, from 1 on, and 0 where the mask is not. It may have holes.
    counts = mask.cumsum(dim=1, dtype=torch.int32)
    length, places = counts[:, -1], (counts * mask).long()
    powers = torch.full((mask.shape[1],), _BASE, device=mask.device).cumprod(dim=0)
    identity = _identity(tokens, places, length, powers)
    rows = _subsample(rollout)
    if rows is None:
        n_grams = _n_grams(tokens, places, powers)
    else:
        found = _n_grams(tokens[rows], places[rows], powers)
        n_grams = found.new_full((len(found), len(mask)), math.nan).index_copy_(1, rows, found)
    return dict(zip(COLUMNS, [*identity, *n_grams], strict=True))


def compute(table: Table) -> dict[str, float]:
    """`rldk/diversity/...`.

    >>> rollout = Rollout(torch.ones(2, 4), token_ids=torch.tensor([[5, 5, 5, 5], [1, 2, 3, 4]]))
    >>> table = Table({name: column.numpy() for name, column in columns(rollout).items()})
    >>> compute(Table({**table.columns, "length/tokens": np.array([4.0, 4.0])}))["rldk/diversity/distinct_1"]
    0.625
    """
    metrics: dict[str, float] = {}
    length = table.get("length/tokens")
    if length is None:
        return metrics
    high, low = (table.get(name) for name in IDENTITY)
    if high is not None and low is not None:
        identities = (high * 2.0**24 + low)[np.isfinite(high)]
        if len(identities):
            metrics["rldk/diversity/unique_fraction"] = len(np.unique(identities)) / len(identities)
    repeats_1, repeats_2, longest = (table.get(name) for name in REPEATS)
    metrics |= _mean("rldk/diversity/distinct_1", None if repeats_1 is None else length - repeats_1, length)
    metrics |= _mean("rldk/diversity/distinct_2", None if repeats_2 is None else length - 1 - repeats_2, length - 1)
    metrics |= _mean("rldk/diversity/repetition", longest, length)
    overlap = _overlap(table, length)
    if overlap is not None:
        metrics["rldk/diversity/within_group_overlap"] = overlap
    return metrics


def _mean(key: str, counts: Array | None, of: Array) -> dict[str, float]:
    """The mean share over the completions that have one."""
    known = np.isfinite(counts) & (of > 0) if counts is not None else np.empty(0, dtype=bool)
    return {key: float((counts[known] / of[known]).mean())} if counts is not None and known.any() else {}


def _overlap(table: Table, length: Array) -> float | None:
    group_ids, columns = table.get("reward/group"), [table.get(name) for name in SIGNATURE]
    signature = np.array([column for column in columns if column is not None])
    if group_ids is None or len(signature) < len(SIGNATURE):
        return None
    known = np.isfinite(group_ids) & np.isfinite(signature).all(axis=0) & (length > 1)
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


def _identity(tokens: Tensor, places: Tensor, length: Tensor, powers: Tensor) -> Tensor:
    """(2, B) two times 24 bits of a completion's hash: the sum of token * base^place, and its length."""
    weights = torch.nn.functional.pad(powers, (1, 0)).expand(len(tokens), -1).gather(1, places)
    hashes = torch.add((tokens * weights).sum(dim=1), length, alpha=_GOLDEN)
    return precise(torch.stack([hashes >> 40, hashes >> 16]) & _LOW_24_BITS)


def _subsample(rollout: Rollout) -> Tensor | None:
    """(n,) rows in which n-grams are counted, in the order of a multiplicative hash of their groups; None for all."""
    rows, tokens = rollout.mask.shape
    count = max_rows(tokens)
    if rows <= count:
        return None
    labels = torch.arange(rows, device=rollout.mask.device) if rollout.group_ids is None else rollout.group_ids.long()
    return (labels * _GOLDEN).argsort(stable=True)[:count]


def _n_grams(tokens: Tensor, places: Tensor, powers: Tensor) -> Tensor:
    """(3 + 16, n) REPEATS and SIGNATURE of completions."""
    # The tokens of the mask moved to the front, in their order, and after them numbers that occur nowhere else.
    padding = torch.arange(_PADDING, _PADDING + tokens.shape[1] + 1, device=tokens.device)
    tokens = padding.repeat(len(tokens), 1).scatter_(1, places, tokens)[:, 1:]
    after = torch.nn.functional.pad(tokens[:, 1:], (0, 1), value=_PADDING)
    scrambled = _scrambled(torch.stack([tokens, (tokens << 32) + after]))
    unigrams, bigrams = scrambled.unbind()
    longest, least = _longest_repeat(unigrams, powers), _least_hashes(bigrams, after > _PADDING // 2)
    return precise(torch.cat([_equal_neighbours(scrambled), longest, least]).squeeze(2))


def _scrambled(values: Tensor) -> Tensor:
    """A fixed random-looking 64-bit number for each integer (the finaliser of splitmix64, Steele et al. 2014)."""
    values = values + _GOLDEN
    values = (values ^ _shifted(values, 30)) * _wrapped(0xBF58476D1CE4E5B9)
    values = (values ^ _shifted(values, 27)) * _wrapped(0x94D049BB133111EB)
    return values ^ _shifted(values, 31)


def _shifted(values: Tensor, bits: int) -> Tensor:
    """Shifted right with zeros from the left; torch's own shift of a signed integer repeats the sign."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)


def _longest_repeat(tokens: Tensor, powers: Tensor) -> Tensor:
    """(1, n, 1) Length of the longest n-gram that occurs at two places.

    If an n-gram occurs twice then so do its parts, so the length is found digit by digit, all completions at once.
    N-grams are compared by their hash, the sum of token * base^place, brought to a common place. One that reaches into
    the padding, or over the end, is like no other: its last tokens occur nowhere else, or it has fewer tokens.

    Args:
        tokens: (n, T) well mixed integers, the padding's all different.
        powers: (T,) of the base, from the first on.
    """
    rows, count = tokens.shape
    bits = HOST_BITS if _on_host(tokens) else DEVICE_BITS
    steps = torch.arange(1, 2**bits, device=tokens.device).view(-1, 1, 1)
    starts, align = torch.arange(count, device=tokens.device), powers.flip(0)
    prefix = torch.nn.functional.pad(tokens * powers, (1, 0)).cumsum(dim=1)
    before, prefixes = prefix[:, :-1] * -align, prefix.expand(len(steps), -1, -1)
    longest = torch.zeros(1, rows, 1, dtype=torch.int64, device=tokens.device)
    digits = -(-(count - 1).bit_length() // bits)
    for digit in reversed(range(digits)):
        step = 2 ** (digit * bits)
        ends = (starts + torch.add(longest, steps, alpha=step)).clamp_(max=count)
        hashes = torch.addcmul(before, prefixes.gather(2, ends), align)
        longest = torch.add(longest, _equal_neighbours(hashes).count_nonzero(dim=0), alpha=step)
    return longest


def _equal_neighbours(values: Tensor) -> Tensor:
    """(s, n, 1) How many of the (s, n, T) values are as the one before, once they are sorted along the last dimension.

    On the host numpy's sort is ten times as fast as torch's.
    """
    if _on_host(values):
        rows = np.sort(values.numpy(), axis=-1)
        return torch.from_numpy((rows[..., 1:] == rows[..., :-1]).sum(axis=-1, dtype=np.int32, keepdims=True))
    ordered = values.sort(dim=-1).values
    return (ordered[..., 1:] == ordered[..., :-1]).sum(dim=-1, keepdim=True)


def _on_host(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"


def _least_hashes(bigrams: Tensor, there: Tensor) -> Tensor:
    """(16, n, 1) The least hash of a completion's bigrams under each of 16 hash functions, its upper 24 bits."""
    # Repeating a bigram does not change a least hash, so the first stands where there is none.
    bigrams = torch.where(there, bigrams, bigrams[:, :1])
    factors = torch.tensor(_SIGNATURE_FACTORS).to(bigrams.device, non_blocking=True)
    at_once = max(1, min(len(SIGNATURE), LARGEST_PRODUCT // max(1, bigrams.numel())))
    parts = [(part * bigrams).min(dim=2, keepdim=True).values for part in torch.split(factors, at_once)]
    return torch.cat(parts) >> 40
