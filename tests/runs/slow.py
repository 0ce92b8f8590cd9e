"""The catalogue's formulas in plain loops over Python floats, from what a test read out of a trainer by itself.

Nothing of the package is used here. A key whose quantity does not exist is not in the result.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise

import numpy as np
from scipy import stats

Numbers = Sequence[float]


@dataclass
class Completion:
    """One sampled completion; numbers of tokens are in the order of the tokens. None is not known.

    `trained` is False where the trainer hides the completion from the model: it has no log-probabilities then.
    """

    tokens: Sequence[int]
    score: float | None
    group: Hashable = None
    rewards: Mapping[str, float] = field(default_factory=dict)
    advantages: Numbers = ()
    raw_advantages: Numbers | None = None
    truncated: bool | None = None
    logprobs: Numbers | None = None
    ref_logprobs: Numbers | None = None
    sampler_logprobs: Numbers | None = None
    penalty: float | None = None
    values: Numbers | None = None
    returns: Numbers | None = None


@dataclass
class Trained:
    """One completion in one forward pass of the loss."""

    new: Numbers
    old: Numbers | None
    advantages: Numbers
    entropy: Numbers | None = None
    forward_pass: int = 0
    is_first: bool = False


def rollout_keys(batch: Sequence[Completion], weights: Mapping[str, float], earlier: Numbers = ()) -> dict[str, float]:
    """Every key of a rollout; `earlier` are the scores of the steps before it."""
    found = {**kl(batch), **advantage(batch), **reward(batch, earlier), **functions(batch, weights), **length(batch)}
    found |= {**diversity(batch), **sampler(batch), **value(batch)}
    known = [p for c in batch if c.logprobs is not None for p in c.logprobs]
    if known:
        found["rldk/policy/logprob_min"] = min(known)
    return found


def kl(batch: Sequence[Completion]) -> dict[str, float]:
    differences = [
        [p - r for p, r in zip(c.logprobs, c.ref_logprobs, strict=True)]
        for c in batch
        if c.logprobs is not None and c.ref_logprobs is not None
    ]
    tokens = [d for row in differences for d in row]
    if not tokens:
        return {}
    k1 = math.fsum(tokens) / len(tokens)
    k3 = math.fsum(math.exp(-d) - 1 + d for d in tokens) / len(tokens)
    found = {
        "rldk/kl/ref_k1": k1,
        "rldk/kl/ref_k2": math.fsum(d * d for d in tokens) / 2 / len(tokens),
        "rldk/kl/ref_k3": k3,
        "rldk/kl/ref_p99": float(np.quantile(tokens, 0.99)),
        "rldk/kl/ref_per_sequence": math.fsum(tokens) / len(differences),
        "rldk/kl/ref_k1_k3_gap": k1 - k3,
    }
    if (rows := len(differences)) > 1:
        squares = math.fsum((math.fsum(row) - k1 * len(row)) ** 2 for row in differences)
        found["rldk/kl/ref_k1_stderr"] = math.sqrt(rows / (rows - 1) * squares) / len(tokens)
    return found


def update_keys(
    batch: Sequence[Trained],
    low: float | None,
    high: float | None,
    sequence_level: bool,
    geometric_mean: bool = False,
    capped: bool = False,
) -> dict[str, float]:
    """Every key of what an optimiser step saw."""
    found = {}
    passes = defaultdict(list)
    for row in batch:
        if row.entropy is not None:
            passes[row.forward_pass] += list(row.entropy)
    means = [math.fsum(one) / len(one) for one in passes.values() if one]
    if means:
        found["rldk/policy/entropy"] = math.fsum(means) / len(means)
    rows = [row for row in batch if len(row.new)]
    if not rows or any(row.old is None for row in rows):
        return found
    logs = [[n - o for n, o in zip(row.new, row.old or (), strict=True)] for row in rows]
    tokens = [math.exp(d) for row in logs for d in row]
    products = [math.exp(math.fsum(row)) for row in logs]
    sequences = [math.exp(math.fsum(row) / len(row)) for row in logs] if geometric_mean else products
    units = sequences if sequence_level else tokens
    found |= {
        "rldk/policy/approx_kl": math.fsum(d * d for row in logs for d in row) / 2 / len(tokens),
        "rldk/policy/ratio_mean": math.fsum(units) / len(units),
        "rldk/policy/ratio_max": max(units),
        "rldk/policy/ess": sample_size(tokens),
        "rldk/policy/ess_sequence": sample_size([*products, *(1.0 for row in batch if not len(row.new))]),
    }
    first = [math.exp(d) for row, ratios in zip(rows, logs, strict=True) if row.is_first for d in ratios]
    if first:
        found["rldk/policy/first_epoch_ratio"] = math.fsum(first) / len(first)
    pairs = []
    for row, ratios, sequence in zip(rows, logs, sequences, strict=True):
        if sequence_level:
            pairs.append((sequence, row.advantages[0]))
        else:
            advantages = row.advantages if len(row.advantages) == len(ratios) else [row.advantages[0]] * len(ratios)
            pairs += [(math.exp(d), a) for d, a in zip(ratios, advantages, strict=True)]
    if low is not None:
        found["rldk/policy/clip_fraction_low"] = sum(w < 1 - low and a < 0 for w, a in pairs) / len(pairs)
    if high is not None:
        found["rldk/policy/clip_fraction_high"] = sum(w > 1 + high and (a > 0 or capped) for w, a in pairs) / len(pairs)
    sides = [f"rldk/policy/clip_fraction_{side}" for side in ("low", "high")]
    if any(side in found for side in sides):
        found["rldk/policy/clip_fraction"] = sum(found.get(side, 0.0) for side in sides)
    return found


def sample_size(weights: Numbers) -> float:
    return math.fsum(weights) ** 2 / (len(weights) * math.fsum(w * w for w in weights))


def advantage(batch: Sequence[Completion]) -> dict[str, float]:
    used = [a for c in batch for a in c.advantages]
    raw = [a for c in batch if c.raw_advantages is not None for a in c.raw_advantages]
    found = {}
    for name, values in (("", used), ("raw_", raw)):
        if values:
            found[f"rldk/advantage/{name}mean"] = math.fsum(values) / len(values)
        if len(values) > 1:
            found[f"rldk/advantage/{name}std"] = sample_std(values)
    if used:
        found["rldk/advantage/abs_p99"] = float(np.quantile(np.abs(used), 0.99))
        found["rldk/advantage/fraction_positive"] = sum(a > 0 for a in used) / len(used)
    of_rows = [
        (math.fsum(values) / len(values), len(c.tokens))
        for c in batch
        if (values := c.advantages if c.raw_advantages is None else c.raw_advantages)
    ]
    return found | named("rldk/advantage/length_corr", correlation(stats.spearmanr, rounded(of_rows)))


def reward(batch: Sequence[Completion], earlier: Numbers) -> dict[str, float]:
    if all(c.score is None for c in batch):
        return {}
    scored = [c for c in batch if c.score is not None and math.isfinite(c.score)]
    # Of several functions that return None a completion may have no score; that is no fault.
    found: dict[str, float] = {"rldk/nan/reward": float(sum(not c.rewards for c in batch if c not in scored))}
    if not scored:
        return found
    scores = [float(c.score or 0.0) for c in scored]
    lengths = [len(c.tokens) for c in scored]
    found |= {
        "rldk/reward/mean": math.fsum(scores) / len(scores),
        "rldk/reward/min": min(scores),
        "rldk/reward/max": max(scores),
        "rldk/reward/p10": float(np.quantile(scores, 0.1)),
        "rldk/reward/p50": float(np.quantile(scores, 0.5)),
        "rldk/reward/p90": float(np.quantile(scores, 0.9)),
    }
    if len(scores) > 1:
        found["rldk/reward/std"] = sample_std(scores)
    if sum(lengths):
        found["rldk/reward/per_token"] = math.fsum(scores) / sum(lengths)
    penalised = [c for c in scored if c.penalty is not None]
    if penalised:
        penalty = math.fsum(abs(c.penalty or 0.0) for c in penalised)
        whole = penalty + math.fsum(abs(c.score or 0.0) for c in penalised)
        if whole:
            found["rldk/reward/non_score_share"] = penalty / whole
    return found | of_groups([c for c in batch if c.group is not None], earlier)


def of_groups(batch: Sequence[Completion], earlier: Numbers) -> dict[str, float]:
    groups: dict[Hashable, list[Completion]] = defaultdict(list)
    for c in batch:
        if c.score is not None and math.isfinite(c.score):
            groups[c.group].append(c)
    everything = [*filter(math.isfinite, earlier), *(c.score for members in groups.values() for c in members)]
    several = [members for members in groups.values() if len(members) > 1]
    if not several:
        return {}
    spreads = [sample_std([c.score for c in members]) for members in several]
    tied = [math.isclose(max(c.score for c in m), min(c.score for c in m), rel_tol=1e-6) for m in several]
    found = {
        "rldk/reward/group_tied_fraction": sum(tied) / len(several),
        "rldk/reward/group_std_mean": math.fsum(spreads) / len(several),
        "rldk/reward/effective_batch_fraction": sum(
            len(members) for members, is_tied in zip(several, tied, strict=True) if not is_tied
        )
        / len(batch),
    }
    highest, lowest = max(everything), min(everything)
    if not math.isclose(highest, lowest, rel_tol=1e-6):
        for name, edge in (("max", highest), ("min", lowest)):
            at_edge = [
                t and math.isclose(members[0].score, edge, rel_tol=1e-6)
                for members, t in zip(several, tied, strict=True)
            ]
            found[f"rldk/reward/group_tied_fraction_all_{name}"] = sum(at_edge) / len(several)
    correlations = [
        correlation(stats.spearmanr, rounded([(c.score, len(c.tokens)) for c in members]))
        for members in groups.values()
    ]
    known = [value for value in correlations if value is not None]
    return found | named("rldk/reward/within_group_length_corr", math.fsum(known) / len(known) if known else None)


def functions(batch: Sequence[Completion], weights: Mapping[str, float]) -> dict[str, float]:
    names = list(dict.fromkeys(name for c in batch for name in c.rewards))
    found = {f"rldk/reward/function/{name}/weight": weights[name] for name in names if name in weights}
    for name in names:
        values = [c.rewards[name] for c in batch if math.isfinite(c.rewards[name])]
        if values:
            found[f"rldk/reward/function/{name}/mean"] = math.fsum(values) / len(values)
        if len(values) > 1:
            found[f"rldk/reward/function/{name}/std"] = sample_std(values)
        # The reward functions of these runs return None and numbers.
        found[f"rldk/reward/function/{name}/none_fraction"] = 1 - len(values) / len(batch)
        found[f"rldk/reward/function/{name}/not_finite"] = 0.0
    scored = [name for name in names if f"rldk/reward/function/{name}/mean" in found]
    watched = [name for name in scored if weights.get(name) == 0.0]
    if len(scored) > 1 and len(watched) == 1:
        found["rldk/reward/unweighted"] = found[f"rldk/reward/function/{watched[0]}/mean"]
    pairs = [
        correlation(stats.pearsonr, [(c.rewards[first], c.rewards[second]) for c in batch])
        for first, second in combinations(names, 2)
    ]
    known = [value for value in pairs if value is not None]
    if known:
        found["rldk/reward/pairwise_corr/min"] = min(known)
        found["rldk/reward/pairwise_corr/mean"] = math.fsum(known) / len(known)
    return found


def length(batch: Sequence[Completion]) -> dict[str, float]:
    lengths = [len(c.tokens) for c in batch]
    found = {
        "rldk/length/mean": sum(lengths) / len(lengths),
        "rldk/length/min": min(lengths),
        "rldk/length/max": max(lengths),
        "rldk/length/p95": float(np.quantile(lengths, 0.95)),
        "rldk/length/std": sample_std(lengths),
    }
    ended = [len(c.tokens) for c in batch if c.truncated is False]
    if all(c.truncated is not None for c in batch):
        found["rldk/length/truncated_fraction"] = 1 - len(ended) / len(batch)
        found["rldk/length/eos_fraction"] = len(ended) / len(batch)
        if ended:
            found["rldk/length/terminated_mean"] = sum(ended) / len(ended)
    return found


def diversity(batch: Sequence[Completion]) -> dict[str, float]:
    texts = [tuple(c.tokens) for c in batch]
    found = {"rldk/diversity/unique_fraction": len(set(texts)) / len(texts)}
    texts = [text for text in texts if text]
    if not texts:
        return found
    found |= {
        "rldk/diversity/distinct_1": mean(len(set(text)) / len(text) for text in texts),
        "rldk/diversity/repetition": mean(longest_repeated(text) / len(text) for text in texts),
    }
    longer = [text for text in texts if len(text) > 1]
    if longer:
        found["rldk/diversity/distinct_2"] = mean(len(set(pairwise(text))) / (len(text) - 1) for text in longer)
    return found


def overlap(batch: Sequence[Completion]) -> float | None:
    """Exact mean similarity within groups, which the package estimates."""
    groups = defaultdict(list)
    for c in batch:
        if len(c.tokens) > 1:
            groups[c.group].append(set(pairwise(c.tokens)))
    shares = [
        mean(len(a & b) / len(a | b) for a, b in combinations(sets, 2)) for sets in groups.values() if len(sets) > 1
    ]
    return mean(shares) if shares else None


def longest_repeated(text: Sequence[int]) -> int:
    for size in range(len(text) - 1, 0, -1):
        windows = [tuple(text[i : i + size]) for i in range(len(text) - size + 1)]
        if len(set(windows)) < len(windows):
            return size
    return 0


def sampler(batch: Sequence[Completion]) -> dict[str, float]:
    differences = [
        p - s
        for c in batch
        if c.logprobs is not None and c.sampler_logprobs is not None
        for p, s in zip(c.logprobs, c.sampler_logprobs, strict=True)
        if not math.isnan(s)
    ]
    if not differences:
        return {}
    ratios = [math.exp(d) for d in differences]
    return {
        "rldk/sampler/logp_diff_mean": mean(abs(d) for d in differences),
        "rldk/sampler/logp_diff_max": max(abs(d) for d in differences),
        "rldk/sampler/k3": mean(math.exp(d) - 1 - d for d in differences),
        "rldk/sampler/ratio_max": max(ratios),
        "rldk/sampler/ess": sample_size(ratios),
        "rldk/sampler/fraction_off": mean(float(abs(d) > math.log(2)) for d in differences),
    }


def value(batch: Sequence[Completion]) -> dict[str, float]:
    if any(c.values is None or c.returns is None for c in batch):
        return {}
    values = [v for c in batch for v in c.values or ()]
    returns = [r for c in batch for r in c.returns or ()]
    errors = [r - v for r, v in zip(returns, values, strict=True)]
    found = {
        "rldk/value/mean": mean(values),
        "rldk/value/std": sample_std(values),
        "rldk/value/bias": mean(errors),
        "rldk/value/explained_variance": 1 - sample_std(errors) ** 2 / sample_std(returns) ** 2,
    }
    pairs = [(mean(c.values or ()), c.score) for c in batch]
    return found | named("rldk/value/value_reward_corr", correlation(stats.pearsonr, pairs))


def correlation(function: object, pairs: Iterable[tuple[float | None, float | None]]) -> float | None:
    """By scipy, over the pairs of numbers; None where one side is constant or there are fewer than two."""
    known = [(x, y) for x, y in pairs if x is not None and y is not None and math.isfinite(x) and math.isfinite(y)]
    if len({x for x, _ in known}) < 2 or len({y for _, y in known}) < 2:
        return None
    return float(function([x for x, _ in known], [y for _, y in known]).statistic)  # type: ignore[operator]


def rounded(pairs: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The pairs, with first numbers made equal that are apart by a millionth of the largest of them."""
    margin = 1e-6 * max((abs(first) for first, _ in pairs), default=0.0)
    equal: dict[float, float] = {}
    for first in sorted(first for first, _ in pairs):
        last = max(equal, default=-math.inf)
        equal[first] = equal[last] if first - last <= margin else first
    return [(equal[first], second) for first, second in pairs]


def mean(values: Iterable[float]) -> float:
    values = list(values)
    return math.fsum(values) / len(values)


def sample_std(values: Sequence[float]) -> float:
    centre = mean(values)
    return math.sqrt(math.fsum((v - centre) ** 2 for v in values) / (len(values) - 1))


def named(key: str, number: float | None) -> dict[str, float]:
    return {} if number is None else {key: number}
