"""What the completions were rewarded with, and whether groups of them tell good from bad.

Keys, read by `rldk_tracking.metrics.keys`:

    rldk/reward/mean | reward | rollout | higher
        What the optimizer is rewarded with, before any KL penalty.
        = mean over completions with a finite score
    rldk/reward/std | reward | rollout
        Spread of the score over the whole batch.
        = standard deviation (n - 1) over completions with a finite score
    rldk/reward/min | reward | rollout | higher | min over ranks
        Lowest score.
        = minimum over completions with a finite score
    rldk/reward/max | reward | rollout | higher | max over ranks
        Highest score.
        = maximum over completions with a finite score
    rldk/reward/p10 | reward | rollout | higher
        A tenth of the completions score less.
        = 10th percentile, interpolated linearly
    rldk/reward/p50 | reward | rollout | higher
        Median score.
        = 50th percentile, interpolated linearly
    rldk/reward/p90 | reward | rollout | higher
        A tenth of the completions score more.
        = 90th percentile, interpolated linearly
    rldk/reward/function/<name>/mean | reward | rollout | higher
        What one reward function returns, unweighted.
        = mean over the completions that it scored
    rldk/reward/function/<name>/std | reward | rollout
        Spread of what one reward function returns.
        = standard deviation (n - 1) over the completions that it scored
    rldk/reward/function/<name>/weight | 1 | rollout
        Weight of one reward function in the score.
        = as configured
    rldk/reward/function/<name>/none_fraction | 1 | rollout
        How often one reward function has no opinion: it returns None, and the others decide.
        = share of the completions for which it returned None
    rldk/reward/function/<name>/not_finite | completions | rollout | lower
        Faults of one reward function, which the others hide where the trainer adds what is finite.
        = number of completions for which it returned NaN or infinity
    rldk/reward/pairwise_corr/min | 1 | rollout
        The two reward functions that agree least; below 0 one is paid for what the other punishes.
        = minimum over pairs of Pearson's correlation over the completions that both scored
    rldk/reward/pairwise_corr/mean | 1 | rollout
        How far the reward functions agree.
        = mean over pairs of Pearson's correlation
    rldk/reward/group_tied_fraction | 1 | rollout | lower
        Share of groups in which every completion scored the same, so that none teaches anything; groups of one scored
        completion do not count. TRL's own share takes scores that differ by rounding for different.
        = share of groups whose scores differ by at most 1e-6 of the largest magnitude among them, or have a standard
        deviation of at most 1e-8
    rldk/reward/group_std_mean | reward | rollout | higher
        Spread of the score among completions of one prompt: the signal that GRPO and RLOO learn from.
        = mean over groups of the standard deviation (n - 1) within
    rldk/reward/effective_batch_fraction | 1 | rollout | higher
        Share of the batch that carries a signal.
        = completions that have a score and a group with a spread / completions
    rldk/reward/within_group_length_corr | 1 | rollout
        Whether longer answers to the same prompt score higher; the mark of a reward that pays for length.
        = mean over groups of Spearman's correlation of score with length; scores that differ by rounding are ties
    rldk/reward/per_token | reward per token | rollout | higher
        Token efficiency.
        = sum of scores / sum of lengths
    rldk/reward/non_score_share | 1 | rollout
        Weight of the KL penalty in what is optimised.
        = sum |penalty| / (sum |penalty| + sum |score|), over completions
    rldk/reward/unweighted | reward | rollout | higher
        The one reward function of weight 0: logged, not optimised, so that it can check the others.
        = mean over the completions that it scored
    rldk/nan/reward | completions | rollout | lower | sum over ranks
        Completions with a reward that is a NaN or an infinity. None is an answer: it abstains.
        = completions of which a reward function returned NaN or infinity, or whose score is not finite although not
        every function returned None

Scores are before any KL penalty, and statistics are over completions with a finite score. Groups of one scored
completion count nowhere. Scores that differ by no more than rounding are equal, for ties and for ranks, see
`groups.RELATIVE_TIE`. Groups in which score or length has no spread have no correlation and are left out. Reads the
column length/tokens. At which end of the scale groups are tied is asked in `groups`.
"""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from rldk_tracking.metrics.advantage import Groups, merge_near_ties
from rldk_tracking.metrics.columns import Table, finite, precise
from rldk_tracking.metrics.statistics import QUANTILES, Array, grouped_spearman, pearson, quantiles
from rldk_tracking.rollout import Rollout

MAX_FUNCTIONS = 16
"""Reward functions with statistics of their own; further ones are part of the score only."""

FUNCTION_SLOTS = tuple(f"reward/function/{index:02d}" for index in range(MAX_FUNCTIONS))
NONE, NOT_FINITE = -math.inf, math.inf
"""What stands in a function's slot where it returned None, and where it returned NaN or infinity."""
WEIGHT_SLOTS = tuple(f"reward/weight/{index:02d}" for index in range(MAX_FUNCTIONS))
COLUMNS = (
    "reward/score",
    "reward/not_finite",
    "reward/group",
    "reward/max_score",
    "reward/non_score",
    *FUNCTION_SLOTS,
    *WEIGHT_SLOTS,
)
FIELDS = ("scores", "rewards", "group_ids", "non_score_rewards")


def names(rollout: Rollout) -> tuple[str, ...]:
    """Names of the reward functions, in the order of their slots. They must be the same on every rank."""
    return tuple(rollout.rewards)[:MAX_FUNCTIONS]


def columns(rollout: Rollout) -> dict[str, Tensor]:
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


def compute(table: Table) -> dict[str, float]:
    """`rldk/reward/...` and `rldk/nan/reward`.

    >>> scores, prompts = torch.tensor([0.0, 1.0, 1.0, 1.0]), torch.tensor([0, 0, 1, 1])
    >>> rollout = Rollout(torch.ones(4, 1), scores=scores, group_ids=prompts)
    >>> table = Table({name: column.numpy() for name, column in columns(rollout).items()})
    >>> found = compute(table)
    >>> found["rldk/reward/mean"], found["rldk/reward/group_tied_fraction"]
    (0.75, 0.5)
    """
    metrics: dict[str, float | None] = {"rldk/nan/reward": _faults(table)}
    metrics |= _functions(table)
    scores = table.get("reward/score")
    if scores is None:
        return finite(metrics)
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
    return finite(metrics)


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
