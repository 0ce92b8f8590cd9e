"""Control charts: that they are the textbook's, stop, and see a shift. False alarms are measured on `Shift`."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rldk_tracking.health.detectors.charts import Cusum, Ewma, PageHinkley, inflation

VALUES = st.lists(st.floats(-4, 4), max_size=80)


@given(VALUES)
def test_cusum_is_the_largest_excess_over_any_past(values: list[float]) -> None:
    chart = Cusum(shift=1.0, limit=1e9)
    for value in values:
        chart.add(value)
    excess = [value - 0.5 for value in values]
    assert chart.total == pytest.approx(max([0.0, *(sum(excess[i:]) for i in range(len(values)))]), abs=1e-9)


@given(VALUES)
def test_ewma_is_the_weighted_mean(values: list[float]) -> None:
    chart = Ewma(weight=0.2)
    for value in values:
        chart.add(value)
    n = len(values)
    assert chart.mean == pytest.approx(sum(0.2 * 0.8 ** (n - 1 - i) * v for i, v in enumerate(values)), abs=1e-9)


@given(VALUES)
def test_page_hinkley_is_the_rise_of_the_sum_above_its_lowest(values: list[float]) -> None:
    chart, total, sums = PageHinkley(allowance=0.3), 0.0, [0.0]
    for i, value in enumerate(values):
        chart.add(value)
        total += value - sum(values[: i + 1]) / (i + 1) - 0.3
        sums.append(total)
    assert chart.total - chart.lowest == pytest.approx(sums[-1] - min(sums), abs=1e-6)


@pytest.mark.parametrize("chart", [Cusum, Ewma, PageHinkley])
def test_a_shift_is_seen(chart: type) -> None:
    draw = random.Random(0)
    watching = chart()
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
