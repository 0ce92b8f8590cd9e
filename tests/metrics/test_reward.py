"""Rewards against plain loops and scipy."""

from __future__ import annotations

import itertools
import math
import statistics
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr

from rldk_tracking.metrics import advantage, reward
from rldk_tracking.rollout import Rollout


def correlation(measure: Any, pairs: list[tuple[float, float]]) -> float:
    if len(pairs) < 2:
        return math.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns of constant input and returns NaN
        return float(measure(*zip(*pairs, strict=True)).statistic)


def groups_of(rollout: Rollout) -> list[list[tuple[float, int]]]:
    """(score, length) of the scored completions, group by group."""
    groups: dict[int, list[tuple[float, int]]] = {}
    lengths = rollout.mask.bool().sum(1).tolist()
    for name, score, size in zip(rollout.group_ids.tolist(), rollout.scores.double().tolist(), lengths, strict=True):
        if math.isfinite(score):
            groups.setdefault(name, []).append((score, size))
    return list(groups.values())


def group_oracle(rollout: Rollout) -> dict[str, float]:
    several = [group for group in groups_of(rollout) if len(group) > 1]
    if not several:
        return {}
    tied = [group for group in several if len({score for score, _ in group}) == 1]
    correlations = [correlation(spearmanr, group) for group in several]
    correlations = [value for value in correlations if not math.isnan(value)]
    spread = sum(len(group) for group in several if group not in tied)
    expected = {
        "rldk/reward/group_tied_fraction": len(tied) / len(several),
        "rldk/reward/group_std_mean": statistics.fmean(statistics.stdev(s for s, _ in group) for group in several),
        "rldk/reward/effective_batch_fraction": spread / len(rollout.scores),
    }
    if correlations:
        expected["rldk/reward/within_group_length_corr"] = statistics.fmean(correlations)
    return expected


def function_oracle(rollout: Rollout) -> dict[str, float]:
    expected: dict[str, float] = {}
    columns = {name: values.double().tolist() for name, values in rollout.rewards.items()}
    for name, values in columns.items():
        known = [value for value in values if math.isfinite(value)]
        if known:
            expected[f"rldk/reward/function/{name}/mean"] = statistics.fmean(known)
        if len(known) > 1:
            expected[f"rldk/reward/function/{name}/std"] = statistics.stdev(known)
        flags = rollout.abstained[name].tolist() if name in rollout.abstained else [False] * len(values)
        if values and (name in rollout.abstained or not any(map(math.isnan, values))):
            prefix = f"rldk/reward/function/{name}"
            expected[f"{prefix}/none_fraction"] = sum(flags) / len(values)
            faults = [not math.isfinite(value) and not flag for value, flag in zip(values, flags, strict=True)]
            expected[f"{prefix}/not_finite"] = sum(faults)
        if name in rollout.reward_weights and values:
            expected[f"rldk/reward/function/{name}/weight"] = rollout.reward_weights[name]
    scored = {name: [v for v in values if math.isfinite(v)] for name, values in columns.items()}
    scored = {name: values for name, values in scored.items() if values}
    free = [name for name in scored if rollout.reward_weights.get(name) == 0.0]
    if len(free) == 1 and len(scored) > 1:
        expected["rldk/reward/unweighted"] = statistics.fmean(scored[free[0]])
    correlations = []
    for first, second in itertools.combinations(columns.values(), 2):
        pairs = [(a, b) for a, b in zip(first, second, strict=True) if math.isfinite(a) and math.isfinite(b)]
        value = correlation(pearsonr, pairs)
        if not math.isnan(value):
            correlations.append(value)
    if correlations:
        expected["rldk/reward/pairwise_corr/min"] = min(correlations)
        expected["rldk/reward/pairwise_corr/mean"] = statistics.fmean(correlations)
    return expected


def is_faulty(rollout: Rollout, row: int) -> bool:
    """A function's fault, or a score that is none although somebody answered. What may be None is no fault of its."""
    flags = {name: bool(rollout.abstained[name][row]) for name in rollout.abstained}
    for name, values in rollout.rewards.items():
        value = float(values[row])
        if math.isinf(value) or (math.isnan(value) and flags.get(name) is False):
            return True
    nobody = bool(rollout.rewards) and all(flags.get(name) for name in rollout.rewards)
    return not math.isfinite(float(rollout.scores[row])) and not nobody


def reward_oracle(rollout: Rollout) -> dict[str, float]:
    scores = rollout.scores.double().tolist()
    expected = function_oracle(rollout)
    if scores:
        expected["rldk/nan/reward"] = sum(is_faulty(rollout, row) for row in range(len(scores)))
    known = [score for score in scores if math.isfinite(score)]
    if not known:
        return expected
    expected |= {
        "rldk/reward/mean": statistics.fmean(known),
        "rldk/reward/min": min(known),
        "rldk/reward/max": max(known),
        **{f"rldk/reward/p{q}": float(np.percentile(known, q)) for q in (10, 50, 90)},
    }
    if len(known) > 1:
        expected["rldk/reward/std"] = statistics.stdev(known)
    lengths = rollout.mask.bool().sum(1).tolist()
    total = sum(n for n, score in zip(lengths, scores, strict=True) if math.isfinite(score))
    if total:
        expected["rldk/reward/per_token"] = sum(known) / total
    penalties = rollout.non_score_rewards.double().tolist()
    penalty = sum(abs(p) for p, score in zip(penalties, scores, strict=True) if math.isfinite(score))
    if penalty + sum(map(abs, known)) > 0:
        expected["rldk/reward/non_score_share"] = penalty / (penalty + sum(map(abs, known)))
    return expected | group_oracle(rollout)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_equals_plain_loops_and_scipy(data: st.DataObject, a_rollout: Any, tabulate: Any, same: Any) -> None:
    rollout = data.draw(a_rollout(max_rows=10))
    same(reward.compute(tabulate(rollout)), reward_oracle(rollout))


def grouped(scores: list[list[float]], **fields: Any) -> Rollout:
    flat = [score for group in scores for score in group]
    ids = [index for index, group in enumerate(scores) for _ in group]
    mask = fields.pop("mask", torch.ones(len(flat), 2))
    return Rollout(mask, scores=torch.tensor(flat), group_ids=torch.tensor(ids), **fields)


def test_ties_leave_nothing_to_learn(tabulate: Any) -> None:
    found = reward.compute(tabulate(grouped([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0], [0.0, 1.0]])))
    assert found["rldk/reward/group_tied_fraction"] == 0.75
    assert found["rldk/reward/effective_batch_fraction"] == 0.25


def test_rounding_breaks_no_ties(tabulate: Any) -> None:
    """Two sums of four are equal, but not in their last bit: 0.7 = 0.3 + 0.5 * 0.8."""
    parts = torch.tensor([[0.3, 0.8], [0.7, 0.0], [0.2, 0.2], [0.9, 0.2]])
    scores = parts[:, 0] + 0.5 * parts[:, 1]
    assert scores[0] != scores[1]
    mask = torch.arange(9)[None] < torch.tensor([[3], [1], [2], [4]])
    batch = Rollout(mask, scores=scores, group_ids=torch.zeros(4), advantages=scores - scores.mean())
    expected = float(spearmanr([0.7, 0.7, 0.3, 1.0], [3, 1, 2, 4]).statistic)
    assert reward.compute(tabulate(batch))["rldk/reward/within_group_length_corr"] == pytest.approx(expected)
    assert advantage.compute(tabulate(batch))["rldk/advantage/length_corr"] == pytest.approx(expected)


def test_length_is_judged_inside_groups_and_not_across_them(tabulate: Any) -> None:
    mask = torch.arange(9)[None] < torch.tensor([[1], [2], [3], [7], [8], [9]])
    easy_and_long = grouped([[0.3, 0.2, 0.1], [0.9, 0.8, 0.7]], mask=mask)
    assert reward.compute(tabulate(easy_and_long))["rldk/reward/within_group_length_corr"] == -1.0


def test_groups_of_one_say_nothing(tabulate: Any) -> None:
    found = reward.compute(tabulate(grouped([[0.3], [0.2]])))
    assert not [key for key in found if "group" in key or "effective" in key]


def test_functions_beyond_the_slots_are_left_out(tabulate: Any) -> None:
    rewards = {f"f{index}": torch.randn(3) for index in range(20)}
    found = reward.compute(tabulate(Rollout(torch.ones(3, 1), rewards=rewards)))
    assert len([key for key in found if key.endswith("/mean") and "function" in key]) == reward.MAX_FUNCTIONS


def test_two_functions_of_weight_0_have_no_mean_in_common(tabulate: Any) -> None:
    rewards = {"a": torch.tensor([0.5, -1.5, 0.25]), "b": torch.randn(3), "c": torch.randn(3)}
    one = Rollout(torch.ones(3, 1), rewards=rewards, reward_weights={"a": 0.0, "b": 1.0, "c": 1.0})
    two = Rollout(torch.ones(3, 1), rewards=rewards, reward_weights={"a": 0.0, "b": 0.0, "c": 1.0})
    assert reward.compute(tabulate(one))["rldk/reward/unweighted"] == pytest.approx(-0.25)
    assert "rldk/reward/unweighted" not in reward.compute(tabulate(two))


def test_a_reward_that_is_not_a_number_is_counted_and_kept_out_of_the_mean(tabulate: Any) -> None:
    scores = torch.tensor([1.0, math.nan, math.inf, 3.0])
    found = reward.compute(tabulate(Rollout(torch.ones(4, 1), scores=scores)))
    assert found["rldk/nan/reward"] == 2.0
    assert found["rldk/reward/mean"] == 2.0
    only = reward.compute(tabulate(Rollout(torch.ones(4, 1), scores=torch.full((4,), math.nan))))
    assert only == {"rldk/nan/reward": 4.0}
    assert reward.compute(tabulate(Rollout(torch.ones(4, 1), scores=torch.ones(4))))["rldk/nan/reward"] == 0.0
