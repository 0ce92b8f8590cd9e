"""Moments, quantiles and correlations against plain loops, numpy and scipy."""

from __future__ import annotations

import math
import statistics
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, rankdata, spearmanr

from rldk_tracking.metrics.columns import Moments, Table, merge_moments, moment_columns, moment_names, of_parts
from rldk_tracking.metrics.statistics import (
    SMALL_GROUP,
    ResistantSlope,
    grouped_pearson,
    grouped_ranks,
    grouped_spearman,
    pearson,
    quantiles,
    spearman,
    spread,
)


def table_of(values: torch.Tensor, mask: torch.Tensor) -> Table:
    return Table({name: column.numpy() for name, column in moment_columns("x", values, mask).items()})


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_equal_the_statistics_of_all_tokens(data: st.DataObject, a_rollout: Any, tokens_of: Any) -> None:
    rollout = data.draw(a_rollout())
    flat = [value for row in tokens_of(rollout.logprobs, rollout.mask) for value in row]
    found = merge_moments(table_of(rollout.logprobs, rollout.mask), "x")
    if not flat:
        assert found is None
        return
    assert found is not None
    assert found.count == len(flat)
    assert found.mean == pytest.approx(statistics.fmean(flat), abs=1e-12)
    assert found.std == pytest.approx(statistics.stdev(flat) if len(flat) > 1 else None, abs=1e-9)


def test_a_small_spread_beside_a_large_mean_is_not_lost() -> None:
    values = torch.tensor([[1e9, 1e9 + 1], [1e9 + 2, 1e9 + 3]], dtype=torch.float64)
    found = merge_moments(table_of(values, torch.ones(2, 2)), "x")
    assert found is not None
    assert found.std == pytest.approx(statistics.stdev([0, 1, 2, 3]), rel=1e-9)


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e12 / 3, -7.7])
def test_equal_numbers_are_constant(value: float) -> None:
    found = merge_moments(table_of(torch.full((7, 9), value, dtype=torch.float64), torch.ones(7, 9)), "x")
    assert found is not None
    assert found.constant


def test_different_numbers_are_not_constant() -> None:
    values = torch.tensor([[1.0, 1.0, 1.0 + 1e-7]], dtype=torch.float64)
    found = merge_moments(table_of(values, torch.ones(1, 3)), "x")
    assert found is not None
    assert not found.constant
    assert Moments(1, 2.0, 0.0).std is None


def test_infinite_numbers_have_no_moments() -> None:
    values = torch.tensor([[1.0, torch.inf], [1.0, 2.0]])
    assert merge_moments(table_of(values, torch.ones(2, 2)), "x") is None


def test_rows_without_a_number_are_left_out_and_missing_columns_are_no_moments() -> None:
    table = table_of(torch.tensor([[1.0, torch.nan], [1.0, 3.0]]), torch.ones(2, 2))
    found = merge_moments(table, "x")
    assert found is not None
    assert (found.count, found.mean) == (2, 2.0)
    count, mean, _ = moment_names("x")
    assert merge_moments(Table({count: np.ones(1), mean: np.ones(1)}), "x") is None


def test_nobody_is_warned_of_infinite_numbers() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert of_parts(np.array([2.0, 1.0]), np.array([math.inf, 1.0]), np.array([0.0, 0.0])) is None


def test_spread_is_numpys() -> None:
    values = [3.0, 1.0, 2.0, 10.0, math.nan]
    found = spread("k", values)
    assert found["k/p10"] == pytest.approx(np.quantile([1, 2, 3, 10], 0.1))
    assert (found["k/min"], found["k/max"]) == (1.0, 10.0)
    assert spread("k", [math.nan]) == {}


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40),
    st.lists(st.floats(0, 1), max_size=5),
)
def test_quantiles_are_numpys(values: list[float], shares: list[float]) -> None:
    found = quantiles(np.array(values), shares)
    assert found == pytest.approx(np.quantile(values, shares).tolist(), rel=1e-12, abs=1e-9)


NUMBERS = st.one_of(st.integers(-2, 2).map(float), st.floats(-100, 100).map(lambda x: round(x, 6)))
MAYBE = st.one_of(NUMBERS, NUMBERS, st.sampled_from([math.nan, math.inf]))


def by_scipy(measure: Any, first: np.ndarray, second: np.ndarray) -> float:
    if len(first) < 2:
        return math.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns of constant input and returns NaN
        return float(measure(first, second).statistic)


def close(value: float) -> Any:
    return pytest.approx(value, rel=1e-6, abs=1e-9, nan_ok=True)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(MAYBE, MAYBE), max_size=12))
def test_equal_scipy(rows: list[tuple[float, float]]) -> None:
    table = np.array(rows, dtype=np.float64).reshape(-1, 2)
    known = table[np.isfinite(table).all(axis=1)]
    for ours, theirs in ((pearson, pearsonr), (spearman, spearmanr)):
        found, expected = ours(table[:, 0], table[:, 1]), by_scipy(theirs, *known.T)
        assert found is None or math.isfinite(found)
        assert (math.nan if found is None else found) == close(expected)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([1, 2, 8, SMALL_GROUP, SMALL_GROUP + 1]), st.integers(1, 5), st.randoms())
def test_ranks_in_groups_of_one_size_that_stand_together(size: int, groups: int, random: Any) -> None:
    values = np.array([float(random.randint(-3, 3)) for _ in range(size * groups)])
    found = grouped_ranks(values, np.repeat(np.arange(groups), size))
    np.testing.assert_array_equal(found.reshape(groups, size), [rankdata(row) for row in values.reshape(groups, size)])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), NUMBERS, NUMBERS), max_size=20))
def test_groups_equal_scipy_group_by_group(rows: list[tuple[int, float, float]]) -> None:
    table = np.array(rows, dtype=np.float64).reshape(-1, 3)
    names, labels = np.unique(table[:, 0], return_inverse=True)
    ranks = grouped_ranks(table[:, 1], labels)
    rank_correlations = grouped_spearman(table[:, 1], table[:, 2], labels)
    correlations = grouped_pearson(table[:, 1], table[:, 2], labels)
    assert len(correlations) == len(rank_correlations) == len(names)
    for label in range(len(names)):
        first, second = table[labels == label, 1], table[labels == label, 2]
        np.testing.assert_array_equal(ranks[labels == label], rankdata(first))
        for found, measure in ((rank_correlations, spearmanr), (correlations, pearsonr)):
            assert found[label] == close(by_scipy(measure, first, second))


def test_scale_does_not_matter() -> None:
    x = np.array([1.0, 2.0, 4.0])
    for scale in (1e-200, 1e150):
        assert pearson(x * scale, x[::-1] * scale) == pytest.approx(pearson(x, x[::-1]))


def test_no_correlation_is_beyond_1() -> None:
    """Rounding alone makes it 1.0000000000000002 for a fifth of these."""
    for seed in range(100):
        x = np.random.default_rng(seed).normal(size=9)
        found = pearson(x, 3.7 * x + 0.1)
        assert found is not None and found <= 1.0


def test_slope_of_a_leak_beside_noise_and_one_jump() -> None:
    slope = ResistantSlope()
    noise = np.random.default_rng(0).normal(0, 0.01, 99)
    for step in range(99):
        slope.add(step, 3.0 + 0.02 * step + noise[step] + (5.0 if step == 50 else 0.0))
    assert slope.value() == pytest.approx(0.02, rel=0.05)


def test_slope_needs_points_and_survives_a_restart() -> None:
    slope = ResistantSlope(least=21)
    for step in range(20):
        slope.add(step, step)
    assert slope.value() is None
    slope.add(20, 20)
    assert slope.value() == pytest.approx(1.0)
    slope.add(3, 0.0)
    assert slope.value() is None


def test_slope_without_progress_is_unknown() -> None:
    slope = ResistantSlope()
    for _ in range(40):
        slope.add(7, 1.0)
    assert slope.value() is None
