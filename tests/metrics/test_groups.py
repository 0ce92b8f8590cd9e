from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rldk_tracking.metrics.groups import Groups

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
            assert tied == (statistics.stdev(values) <= 1e-8)


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
