"""What the completions were rewarded with, whether groups of them tell good from bad, and what the loss weighs with.

| key | formula, over completions with a finite score |
|---|---|
| rldk/reward/mean, std, min, max, p10, p50, p90 | of the score, before any KL penalty |
| rldk/reward/function/<name>/mean, std, weight | of one reward function, over the completions that it scored |
| rldk/reward/function/<name>/none_fraction | share of the completions for which it returned None, and so abstained |
| rldk/reward/function/<name>/not_finite | number of completions for which it returned NaN or infinity |
| rldk/reward/unweighted | mean of the one function whose weight is 0: logged, not optimised |
| rldk/reward/pairwise_corr/min, mean | lowest and mean Pearson correlation over all pairs of reward functions |
| rldk/reward/group_tied_fraction | share of groups in which all scores are equal, so that they carry no gradient |
| rldk/reward/group_std_mean | mean over groups of the standard deviation within |
| rldk/reward/effective_batch_fraction | share of all completions that have a score and a group with a spread |
| rldk/reward/within_group_length_corr | mean over groups of Spearman's correlation of score with length |
| rldk/reward/per_token | sum of scores over sum of lengths: the token efficiency |
| rldk/reward/non_score_share | sum |KL penalty| / (sum |KL penalty| + sum |score|) |
| rldk/nan/reward | number of completions of which a function's answer, or the score, is not finite; None is no answer |

Standard deviations have n - 1 in the denominator, as TRL's; percentiles interpolate linearly. Groups of one scored
completion count nowhere. Scores that differ by no more than rounding are equal, for ties and for ranks, see
`statistics.RELATIVE_TIE`. Groups in which score or length has no spread have no correlation and are left out. Pairs of
functions are compared on the completions that both scored. Reads the column length/tokens. At which end of the scale
groups are tied is asked in `reward_range`.

| key | formula, over response tokens, or over completions where each has one advantage |
|---|---|
| rldk/advantage/mean, std | as used in the loss: whitened where the trainer whitens |
| rldk/advantage/raw_mean, raw_std | before whitening, where that can be had |
| rldk/advantage/abs_p99 | 99th percentile of the magnitude, as used |
| rldk/advantage/fraction_positive | share above 0 |
| rldk/advantage/length_corr | Spearman, over completions, of the (mean) advantage with the length in tokens |

The correlation is of ranks because both are skewed: one long completion must not decide it. It reads the column
length/tokens, and the raw advantages where they are there: whitening does not change an order within one batch,
but trainers whiten each rank or minibatch by itself.
"""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from rldk_tracking.metrics.columns import count_of, moment_columns, precise
from rldk_tracking.metrics.statistics import (
    QUANTILES,
    Groups,
    grouped_spearman,
    merge_moments,
    merge_near_ties,
    pearson,
    quantiles,
    spearman,
)
from rldk_tracking.metrics.table import Array, Table, moment_names
from rldk_tracking.rollout import Rollout

MAX_FUNCTIONS = 16
"""Reward functions with statistics of their own; further ones are part of the score only."""

FUNCTION_SLOTS = tuple(f"reward/function/{index:02d}" for index in range(MAX_FUNCTIONS))
NONE, NOT_FINITE = -math.inf, math.inf
"""What stands in a function's slot where it returned None, and where it returned NaN or infinity."""
WEIGHT_SLOTS = tuple(f"reward/weight/{index:02d}" for index in range(MAX_FUNCTIONS))
REWARD_COLUMNS = (
    "reward/score",
    "reward/not_finite",
    "reward/group",
    "reward/max_score",
    "reward/non_score",
    *FUNCTION_SLOTS,
    *WEIGHT_SLOTS,
)
ADVANTAGE_COLUMNS = (*moment_names("advantage/used"), *moment_names("advantage/raw"), "advantage/positive")
COLUMNS = (*REWARD_COLUMNS, *ADVANTAGE_COLUMNS)
TAILS = ("advantage/magnitude",)
FIELDS = ("scores", "rewards", "group_ids", "non_score_rewards", "advantages", "raw_advantages")


def names(rollout: Rollout) -> tuple[str, ...]:
    """Names of the reward functions, in the order of their slots. They must be the same on every rank."""
    return tuple(rollout.rewards)[:MAX_FUNCTIONS]


def columns(rollout: Rollout) -> dict[str, Tensor]:
    """(B,) statistics of rewards and advantages."""
    return reward_columns(rollout) | advantage_columns(rollout)


def compute(table: Table) -> dict[str, float]:
    """The keys of this group that exist for this table."""
    return compute_rewards(table) | compute_advantages(table)


def reward_columns(rollout: Rollout) -> dict[str, Tensor]:
    """(B,) score, group and what each reward function returned. Constants of the batch are repeated in every row."""
    found = {}
    if rollout.scores is not None:
        scores = precise(rollout.scores)
        found["reward/score"] = scores
        # A number minus itself is 0 if it is finite and NaN if not.
        found["reward/not_finite"] = precise((scores - scores).isnan())
        if rollout.max_score is not None:
            # Rounded as the scores are, so that a completion can reach it.
            found["reward/max_score"] = precise(torch.full_like(rollout.scores, rollout.max_score))
    if rollout.group_ids is not None:
        found["reward/group"] = precise(rollout.group_ids)
    if rollout.non_score_rewards is not None:
        found["reward/non_score"] = precise(rollout.non_score_rewards)
    for name, slot, weight_slot in zip(names(rollout), FUNCTION_SLOTS, WEIGHT_SLOTS, strict=False):
        found[slot] = _answers(rollout, name)
        if name in rollout.reward_weights:
            found[weight_slot] = torch.full_like(found[slot], float(rollout.reward_weights[name]))
    return found


def _answers(rollout: Rollout, name: str) -> Tensor:
    """(B,) what a function returned, with `NONE` and `NOT_FINITE`; NaN where nobody knows which of the two it is."""
    abstained = rollout.abstained.get(name)
    nan = math.nan if abstained is None else NOT_FINITE
    answers = precise(rollout.rewards[name]).nan_to_num(nan, NOT_FINITE, NOT_FINITE)
    return answers if abstained is None else answers.masked_fill(abstained.bool(), NONE)


def compute_rewards(table: Table) -> dict[str, float]:
    """`rldk/reward/...` and `rldk/nan/reward`."""
    metrics: dict[str, float | None] = {"rldk/nan/reward": _faults(table)}
    metrics |= _functions(table)
    scores = table.get("reward/score")
    if scores is None:
        return _finite(metrics)
    known = scores[np.isfinite(scores)]
    metrics |= {
        "rldk/reward/mean": float(known.mean()),
        "rldk/reward/std": float(known.std(ddof=1)) if len(known) > 1 else None,
        "rldk/reward/min": float(known.min()),
        "rldk/reward/max": float(known.max()),
    }
    for name, quantile in zip(QUANTILES, quantiles(known, list(QUANTILES.values())), strict=True):
        metrics[f"rldk/reward/{name}"] = quantile
    groups = table.get("reward/group")
    if groups is not None:
        metrics |= _groups(groups, scores, table)
    lengths, penalties = table.get("length/tokens"), table.get("reward/non_score")
    if lengths is not None:
        both = np.isfinite(scores) & np.isfinite(lengths)
        total = float(lengths[both].sum())
        metrics["rldk/reward/per_token"] = float(scores[both].sum()) / total if total > 0 else None
    if penalties is not None:
        both = np.isfinite(scores) & np.isfinite(penalties)
        penalty, score = float(np.abs(penalties[both]).sum()), float(np.abs(scores[both]).sum())
        metrics["rldk/reward/non_score_share"] = penalty / (penalty + score) if penalty + score > 0 else None
    return _finite(metrics)


def _functions(table: Table) -> dict[str, float | None]:
    metrics: dict[str, float | None] = {}
    present, unweighted = [], []
    for name, slot, weight_slot in zip(table.names, FUNCTION_SLOTS, WEIGHT_SLOTS, strict=False):
        values, weights = table.get(slot), table.get(weight_slot)
        metrics |= _refusals(f"rldk/reward/function/{name}", table.columns.get(slot))
        if weights is not None:
            metrics[f"rldk/reward/function/{name}/weight"] = float(np.nanmax(weights))
        if values is None:
            continue
        present.append(values)
        known = values[np.isfinite(values)]
        metrics[f"rldk/reward/function/{name}/mean"] = float(known.mean())
        metrics[f"rldk/reward/function/{name}/std"] = float(known.std(ddof=1)) if len(known) > 1 else None
        if metrics.get(f"rldk/reward/function/{name}/weight") == 0.0:
            unweighted.append(float(known.mean()))
    if len(unweighted) == 1 and len(present) > 1:
        metrics["rldk/reward/unweighted"] = unweighted[0]
    pairs = [pearson(first, second) for first, second in combinations(present, 2)]
    correlations = [value for value in pairs if value is not None]
    if correlations:
        metrics["rldk/reward/pairwise_corr/min"] = min(correlations)
        metrics["rldk/reward/pairwise_corr/mean"] = sum(correlations) / len(correlations)
    return metrics


def _faults(table: Table) -> float | None:
    """Completions whose score is not finite although not every function abstained, or with such an answer."""
    scores, answers = table.get("reward/not_finite"), [table.columns[s] for s in FUNCTION_SLOTS if s in table.columns]
    if scores is None and not any((~np.isnan(answer)).any() for answer in answers):
        return None
    faulty = np.zeros(len(answers[0]), dtype=bool) if scores is None else scores == 1.0
    if answers:
        faulty &= ~np.all([answer == NONE for answer in answers], axis=0)
        faulty |= np.any([answer == NOT_FINITE for answer in answers], axis=0)
    return float(faulty.sum())


def _refusals(prefix: str, answers: Array | None) -> dict[str, float | None]:
    """How often a function returned None, and what is not finite, where both are known of every completion."""
    if answers is None or len(answers) == 0 or np.isnan(answers).any():
        return {}
    none, not_finite = float((answers == NONE).mean()), float((answers == NOT_FINITE).sum())
    return {f"{prefix}/none_fraction": none, f"{prefix}/not_finite": not_finite}


def _groups(group_ids: Array, scores: Array, table: Table) -> dict[str, float | None]:
    groups = Groups.of(group_ids, scores)
    tied, std = groups.tied, groups.std
    several = np.isfinite(tied)
    if not several.any():
        return {}
    spread = tied == 0.0
    metrics: dict[str, float | None] = {
        "rldk/reward/group_tied_fraction": float(tied[several].mean()),
        "rldk/reward/group_std_mean": float(std[several].mean()),
        "rldk/reward/effective_batch_fraction": float(groups.size[spread].sum() / np.isfinite(group_ids).sum()),
    }
    lengths = table.get("length/tokens")
    if lengths is not None:
        lengths = lengths[np.isfinite(group_ids) & np.isfinite(scores)]
        known = np.isfinite(lengths)
        ranked = merge_near_ties(groups.values, groups.labels)
        correlations = grouped_spearman(ranked[known], lengths[known], groups.labels[known])
        if np.isfinite(correlations).any():
            metrics["rldk/reward/within_group_length_corr"] = float(np.nanmean(correlations))
    return metrics


def advantage_columns(rollout: Rollout) -> dict[str, Tensor]:
    """(B,) moments of each completion's advantages, and how many of them are positive."""
    found: dict[str, Tensor] = {}
    if rollout.advantages is not None:
        found |= _moments("advantage/used", rollout.advantages, rollout.mask)
        positive = rollout.advantages > 0
        if positive.ndim == 2:
            found["advantage/positive"] = count_of(positive & rollout.mask.bool())
        else:
            found["advantage/positive"] = precise(positive)
    if rollout.raw_advantages is not None:
        found |= _moments("advantage/raw", rollout.raw_advantages, rollout.mask)
    return found


def tails(rollout: Rollout) -> dict[str, tuple[Tensor, Tensor]]:
    """Values and mask of the quantities whose high quantiles are wanted."""
    if rollout.advantages is None:
        return {}
    magnitude = rollout.advantages.abs()
    known = ~magnitude.isnan()
    if magnitude.ndim == 1:
        return {"advantage/magnitude": (magnitude[:, None], known[:, None])}
    return {"advantage/magnitude": (magnitude, known & rollout.mask.bool())}


def compute_advantages(table: Table) -> dict[str, float]:
    """`rldk/advantage/...`."""
    metrics: dict[str, float | None] = {}
    used, raw = merge_moments(table, "advantage/used"), merge_moments(table, "advantage/raw")
    if used is not None:
        metrics["rldk/advantage/mean"] = used.mean
        metrics["rldk/advantage/std"] = used.std
        positive, means = table.get("advantage/positive"), table.get("advantage/used/mean")
        if positive is not None and means is not None:
            metrics["rldk/advantage/fraction_positive"] = float(positive[means == means].sum()) / used.count
    if raw is not None:
        metrics["rldk/advantage/raw_mean"] = raw.mean
        metrics["rldk/advantage/raw_std"] = raw.std
    if "advantage/magnitude" in table.tails:
        metrics["rldk/advantage/abs_p99"] = table.tails["advantage/magnitude"].quantile(0.99)
    means, lengths = table.get("advantage/raw/mean"), table.get("length/tokens")
    means = means if means is not None else table.get("advantage/used/mean")
    if means is not None and lengths is not None:
        both = np.isfinite(means) & np.isfinite(lengths)
        ranked = merge_near_ties(means[both], np.zeros(int(both.sum()), dtype=np.intp))
        metrics["rldk/advantage/length_corr"] = spearman(ranked, lengths[both])
    return _finite(metrics)


def _moments(prefix: str, advantages: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Over the tokens of each completion; where a completion has one advantage, of that one number."""
    if advantages.ndim == 2:
        return moment_columns(prefix, advantages, mask)
    mean = precise(advantages)
    return dict(zip(moment_names(prefix), (torch.ones_like(mean), mean, torch.zeros_like(mean)), strict=True))


def _finite(metrics: dict[str, float | None]) -> dict[str, float]:
    return {key: value for key, value in metrics.items() if value is not None and math.isfinite(value)}
