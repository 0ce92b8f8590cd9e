from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, rankdata, spearmanr

from rldk_tracking.metrics.correlation import grouped_pearson, grouped_ranks, grouped_spearman, pearson, spearman

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
