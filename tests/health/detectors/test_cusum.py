"""The cumulative sum: that it is the textbook's, stops, and sees a shift. False alarms are measured on `Shift`."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rldk_tracking.health.detectors.cusum import Cusum, inflation

VALUES = st.lists(st.floats(-4, 4), max_size=80)


@given(VALUES)
def test_cusum_is_the_largest_excess_over_any_past(values: list[float]) -> None:
    chart = Cusum(shift=1.0, limit=1e9)
    for value in values:
        chart.add(value)
    excess = [value - 0.5 for value in values]
    assert chart.total == pytest.approx(max([0.0, *(sum(excess[i:]) for i in range(len(values)))]), abs=1e-9)


def test_a_shift_is_seen() -> None:
    draw = random.Random(0)
    watching = Cusum()
    before = [watching.add(draw.gauss(0, 1)) for _ in range(100)]
    after = [watching.add(draw.gauss(3, 1)) for _ in range(30)]
    assert not any(before)
    assert after.index(True) <= 10


def test_the_cusum_ends_as_fast_as_it_began() -> None:
    chart = Cusum(limit=5.0)
    assert all(chart.add(4.0) for _ in range(1000)) is False
    assert [chart.add(-1.0) for _ in range(10)].count(True) <= 4


@pytest.mark.parametrize(("correlation", "factor"), [(0.0, 1.0), (-0.5, 1.0), (0.6, 2.0), (1.0, 39**0.5)])
def test_inflation(correlation: float, factor: float) -> None:
    assert inflation(correlation) == pytest.approx(factor)
