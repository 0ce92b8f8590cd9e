"""Groups against plain loops."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from rldk_tracking.metrics.groups import Groups, merge_near_ties

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
