"""Histograms over the steps, against counting by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rldk_tracking.charts.distribution import Distribution
from rldk_tracking.charts.heatmap import Heatmap

VALUES = st.floats(-1e6, 1e6, allow_nan=False, allow_subnormal=False)


def made(batches: list[list[float]], bins: int = 8, steps: int = 4) -> Heatmap | None:
    distribution = Distribution("Rewards", bins, steps)
    for step, batch in enumerate(batches, 1):
        distribution.add(step, batch)
    return distribution.heatmap()


@given(st.lists(st.lists(VALUES, min_size=1, max_size=9), min_size=1, max_size=30))
def test_each_value_is_counted_in_its_bin_and_its_column(batches: list[list[float]]) -> None:
    found = made(batches)
    assert found is not None
    assert len(found.rows) <= 8
    assert len(found.steps) <= 4
    edges = np.array(found.edges)
    assert np.allclose(np.diff(edges), edges[1] - edges[0])
    ends = [*found.steps[1:], len(batches) + 1]
    for column, (start, end) in enumerate(zip(found.steps, ends, strict=True)):
        values = [value for batch in batches[start - 1 : end - 1] for value in batch]
        # Every bin takes its lower limit and not its upper one.
        counts = [sum(low <= v < high for v in values) for low, high in itertools.pairwise(edges)]
        shares = [row[column] for row in reversed(found.values)]
        assert shares == pytest.approx([count / len(values) for count in counts])


def test_what_moves_is_seen_to_move() -> None:
    rng = np.random.default_rng(0)
    distribution = Distribution("Rewards")
    for step in range(1, 401):
        distribution.add(step, rng.normal(0.0 if step <= 200 else 5.0, 0.3, size=64))
    found = distribution.heatmap()
    assert found is not None
    assert (len(found.rows) <= 24, len(found.steps) <= 48) == (True, True)

    def mode(column: int) -> float:
        place = max(range(len(found.rows)), key=lambda row: found.values[row][column] or 0.0)
        return found.edges[len(found.rows) - 1 - place]

    assert abs(mode(0)) <= 0.5
    assert 4.5 <= mode(-1) <= 5.5


def test_the_highest_bin_is_on_top_and_says_its_limits() -> None:
    found = made([[0.0, 1.0, 1.0, 1.0]])
    assert found is not None
    assert found.rows[0].startswith("1 to ")
    assert found.values[0] == (0.75,)
    assert found.rows[-1].startswith("0 to ")
    assert found.values[-1] == (0.25,)


def test_one_value_alone_and_none() -> None:
    found = made([[0.5, 0.5]])
    assert found is not None
    assert found.values == ((1.0,),)
    assert found.edges[0] <= 0.5 < found.edges[1]
    assert made([]) is None
    assert made([[math.nan, math.inf, -math.inf]]) is None


def test_what_is_not_finite_counts_nowhere() -> None:
    found = made([[1.0, math.nan, math.inf, 1e300]])
    assert found is not None
    assert found.values == ((1.0,),)


def test_memory_does_not_grow_with_the_run_nor_with_the_values() -> None:
    distribution = Distribution("Rewards", bins=8, steps=4)
    for step in range(1, 3000):
        distribution.add(step, [math.sin(step) * 1.01**step, 0.0])
    assert len(distribution._columns.all) <= 4
    assert all(len(column.sums) <= 8 for column in distribution._columns.all)
