"""Advantages against plain loops and scipy."""

from __future__ import annotations

import json
import math
import random
import statistics
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata, spearmanr

from rldk_tracking.metrics import advantage
from rldk_tracking.metrics.advantage import Groups, RewardRange, merge_near_ties
from rldk_tracking.rollout import Rollout


def per_row(values: torch.Tensor, rollout: Rollout, tokens_of: Any) -> list[list[float]]:
    if values.ndim == 2:
        return tokens_of(values, rollout.mask)
    return [[x] for x in values.double().tolist()]


def advantage_oracle(rollout: Rollout, tokens_of: Any) -> dict[str, float]:
    expected: dict[str, float] = {}
    used = per_row(rollout.advantages, rollout, tokens_of)
    flat = [a for row in used for a in row]
    if not flat:
        return {}
    expected["rldk/advantage/mean"] = statistics.fmean(flat)
    expected["rldk/advantage/fraction_positive"] = sum(a > 0 for a in flat) / len(flat)
    expected["rldk/advantage/abs_p99"] = float(np.quantile(np.abs(flat), 0.99))
    if len(flat) > 1:
        expected["rldk/advantage/std"] = statistics.stdev(flat)
    ordered = used
    if rollout.raw_advantages is not None:
        ordered = per_row(rollout.raw_advantages, rollout, tokens_of)
        raw = [a for row in ordered for a in row]
        expected["rldk/advantage/raw_mean"] = statistics.fmean(raw)
        if len(raw) > 1:
            expected["rldk/advantage/raw_std"] = statistics.stdev(raw)
    lengths = rollout.mask.bool().sum(1).tolist()
    pairs = [(statistics.fmean(row), n) for row, n in zip(ordered, lengths, strict=True) if row]
    if len(pairs) > 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scipy warns of constant input and returns NaN
            expected["rldk/advantage/length_corr"] = float(spearmanr(pairs).statistic)
    return expected


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_advantages_equal_plain_loops_and_scipy(
    data: st.DataObject, a_rollout: Any, tabulate: Any, same: Any, tokens_of: Any
) -> None:
    rollout = data.draw(a_rollout())
    same(advantage.compute(tabulate(rollout)), advantage_oracle(rollout, tokens_of))


def test_zero_is_not_positive_and_nan_counts_nowhere(tabulate: Any) -> None:
    advantages = torch.tensor([1.0, 0.0, -1.0, 2.0, math.nan])
    found = advantage.compute(tabulate(Rollout(torch.ones(5, 2), advantages=advantages)))
    assert found["rldk/advantage/fraction_positive"] == 0.5
    assert found["rldk/advantage/mean"] == 0.5
    assert found["rldk/advantage/abs_p99"] == pytest.approx(np.quantile([1, 0, 1, 2], 0.99))


def test_nothing_without_advantages(tabulate: Any) -> None:
    assert advantage.compute(tabulate(Rollout(torch.ones(2, 2)))) == {}


def test_a_completion_with_a_nan_advantage_counts_nowhere(tabulate: Any) -> None:
    advantages = torch.tensor([[1.0, math.nan], [1.0, -1.0], [math.nan, -2.0]])
    mask = torch.tensor([[1, 1], [1, 1], [0, 1]])
    found = advantage.compute(tabulate(Rollout(mask, advantages=advantages)))
    assert found["rldk/advantage/fraction_positive"] == pytest.approx(1 / 3)
    assert found["rldk/advantage/mean"] == pytest.approx(-2 / 3)
    assert found["rldk/advantage/abs_p99"] == pytest.approx(np.quantile([1, 1, 1, 2], 0.99))


VALUES = st.one_of(st.sampled_from([0.0, 1.0, 1e12 / 3, math.nan]), st.floats(-1e3, 1e3))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([3.0, 7.0, 2**40, math.nan]), VALUES), max_size=12))
def test_equals_plain_loops(rows: list[tuple[float, float]]) -> None:
    expected: dict[float, list[float]] = {}
    for name, value in rows:
        if not math.isnan(name) and not math.isnan(value):
            expected.setdefault(name, []).append(value)
    lists = [expected[name] for name in sorted(expected)]
    columns = np.array(rows, dtype=np.float64).reshape(-1, 2)
    groups = Groups.of(columns[:, 0], columns[:, 1])
    assert groups.size.tolist() == [len(values) for values in lists]
    assert groups.lowest.tolist() == [min(values) for values in lists]
    assert groups.highest.tolist() == [max(values) for values in lists]
    for std, tied, values in zip(groups.std, groups.tied, lists, strict=True):
        if len(values) == 1:
            assert math.isnan(std)
            assert math.isnan(tied)
        else:
            assert std == pytest.approx(statistics.stdev(values), rel=1e-6, abs=1e-9)
            near = max(values) - min(values) <= 1e-6 * max(map(abs, values))
            assert tied == (near or statistics.stdev(values) <= 1e-8)


def test_large_equal_scores_are_tied() -> None:
    """The mean of eleven equal numbers may be another number."""
    score = 1e12 / 3
    groups = Groups.of(np.zeros(11), np.full(11, score))
    assert np.bincount(np.zeros(11, dtype=int), weights=np.full(11, score))[0] / 11 != score
    assert groups.tied.tolist() == [1.0]
    assert groups.std.tolist() == [0.0]


def test_scores_that_differ_a_little_are_not_tied() -> None:
    groups = Groups.of(np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.5, 0.5 + 1e-6, 0.5, 0.5 + 1e-9]))
    assert groups.tied.tolist() == [0.0, 1.0]


def test_equal_sums_of_other_parts_are_tied() -> None:
    """1.0 a + 0.5 b in single precision, of parts that come to the same."""
    parts = np.array([[0.3, 0.8], [0.1, 1.2], [0.6, 0.2], [0.7, 0.0]], dtype=np.float32)
    sums = (parts[:, 0] + np.float32(0.5) * parts[:, 1]).astype(np.float64)
    assert len(set(sums)) > 1
    assert Groups.of(np.zeros(4), sums).tied.tolist() == [1.0]
    assert len(set(merge_near_ties(sums, np.zeros(4, dtype=np.intp)))) == 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-9, 9), st.integers(-3, 3)), min_size=1, max_size=20))
def test_what_rounding_set_apart_is_brought_together(rows: list[tuple[int, int, int]]) -> None:
    labels = np.unique([label for label, _, _ in rows], return_inverse=True)[1]
    exact = np.array([float(value) for _, value, _ in rows])
    rounded = exact * (1 + 1e-7 * np.array([noise for _, _, noise in rows]))
    merged = merge_near_ties(rounded, labels)
    for label in set(labels.tolist()):
        of_group = labels == label
        np.testing.assert_array_equal(rankdata(merged[of_group]), rankdata(exact[of_group]))
    np.testing.assert_allclose(merged, exact, rtol=1e-6)


ALL_MAX, ALL_MIN = "rldk/reward/group_tied_fraction_all_max", "rldk/reward/group_tied_fraction_all_min"


def grouped(scores: list[list[float]], **fields: Any) -> Rollout:
    flat = [score for group in scores for score in group]
    ids = [index for index, group in enumerate(scores) for _ in group]
    return Rollout(torch.ones(len(flat), 2), scores=torch.tensor(flat), group_ids=torch.tensor(ids), **fields)


def test_the_run_says_what_the_ends_are(tabulate: Any) -> None:
    seen = RewardRange()
    found = seen.shares(tabulate(grouped([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0], [0.0, 1.0]])))
    assert found == {ALL_MAX: 0.25, ALL_MIN: 0.5}
    # Tied between the ends: its neighbours do not make it too hard or solved.
    assert seen.shares(tabulate(grouped([[0.5, 0.5], [0.6, 0.7]]))) == {ALL_MAX: 0.0, ALL_MIN: 0.0}
    # All at the lowest: that is when one wants to know.
    assert seen.shares(tabulate(grouped([[0.0, 0.0], [0.0, 0.0]]))) == {ALL_MAX: 0.0, ALL_MIN: 1.0}
    assert seen.shares(tabulate(grouped([[1.0, 1.0], [1.0, 1.0]]))) == {ALL_MAX: 1.0, ALL_MIN: 0.0}


def test_nobody_knows_what_the_only_score_is(tabulate: Any) -> None:
    seen = RewardRange()
    constant = tabulate(grouped([[0.5, 0.5], [0.5, 0.5]]))
    assert seen.shares(constant) == {}
    assert seen.shares(tabulate(grouped([[0.5, 0.5], [0.5, 0.5 * (1 + 2e-7)]]))) == {}, "rounding is no second score"
    seen.shares(tabulate(grouped([[0.5, 0.25]])))
    assert seen.shares(constant) == {ALL_MAX: 1.0, ALL_MIN: 0.0}


@pytest.mark.parametrize(("best", "all_max", "all_min"), [(0.5, 1.0, 0.0), (1.0, 0.0, 1.0)])
def test_unless_the_task_says_so(tabulate: Any, best: float, all_max: float, all_min: float) -> None:
    constant = tabulate(grouped([[0.5, 0.5], [0.5, 0.5]], max_score=best))
    assert RewardRange().shares(constant) == {ALL_MAX: all_max, ALL_MIN: all_min}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("best", [0.1, 0.7, 0.9])
def test_a_stated_highest_score_survives_rounding(tabulate: Any, dtype: torch.dtype, best: float) -> None:
    scores = torch.tensor([best, best, 0.0, 0.05]).to(dtype)
    rollout = Rollout(torch.ones(4, 1), scores=scores, group_ids=torch.tensor([0, 0, 1, 1]), max_score=best)
    assert RewardRange().shares(tabulate(rollout))[ALL_MAX] == 0.5


def test_the_ends_equal_plain_loops_also_through_a_stored_state(tabulate: Any) -> None:
    draw = random.Random(0)
    seen, everything = RewardRange(), list[float]()
    for step in range(40):
        best = draw.choice([0.25, 0.5, 1.0])
        batch = [[draw.choice([0.0, 0.25, best, math.nan]) for _ in range(3)] for _ in range(4)]
        if step % 3 == 0:
            batch = [[draw.choice([0.0, 0.25, 0.5, best])] * 3 for _ in range(4)]
        found = seen.shares(tabulate(grouped(batch)))
        known = [[score for score in group if not math.isnan(score)] for group in batch]
        everything += [score for group in known for score in group]
        several = [group for group in known if len(group) > 1]
        expected = {}
        if several and min(everything) < max(everything):
            for key, end in ((ALL_MAX, max(everything)), (ALL_MIN, min(everything))):
                expected[key] = sum(set(group) == {end} for group in several) / len(several)
        assert found == pytest.approx(expected), step
        if step % 7 == 0:
            stored, seen = json.loads(json.dumps(seen.state(), allow_nan=False)), RewardRange()
            seen.load_state(stored)


def test_nothing_without_scores_or_groups(tabulate: Any) -> None:
    seen = RewardRange()
    assert seen.shares(tabulate(Rollout(torch.ones(2, 2)))) == {} and seen.state() == {}
    assert seen.shares(tabulate(Rollout(torch.ones(2, 2), scores=torch.tensor([1.0, 3.0])))) == {}
    assert seen.state() == {"lowest": 1.0, "highest": 3.0}
    assert seen.shares(tabulate(grouped([[1.0], [3.0]]))) == {}
