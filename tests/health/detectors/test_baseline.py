"""Median and spread of recent values against numpy and scipy, change since the first values, the cumulative sum."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from rldk_tracking.health.detectors.baseline import Baseline, Change, median_of_sorted

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=120)


@given(VALUES, st.integers(1, 50))
def test_median_and_spread_are_those_of_the_last_values(values: list[float], window: int) -> None:
    baseline = Baseline(window, delay=0)
    for value in values:
        baseline.add(value)
    kept = values[-window:]
    assert baseline.median == pytest.approx(np.median(kept))
    assert baseline.spread == pytest.approx(1.4826 * stats.median_abs_deviation(kept), abs=1e-9)
    deviation = 1.2533 * np.abs(np.array(kept) - np.median(kept)).mean()
    assert baseline.wander == pytest.approx(max(baseline.spread, deviation), abs=1e-9)
    assert len(baseline) == len(kept)


@given(VALUES)
def test_state_goes_on_where_it_was(values: list[float]) -> None:
    whole, first, second = Baseline(16), Baseline(16), Baseline(16)
    half = len(values) // 2
    for value in values[:half]:
        first.add(value)
    second.load_state(first.state())
    for value in values[half:]:
        second.add(value)
    for value in values:
        whole.add(value)
    assert second.state() == whole.state()
    if len(whole):
        assert (second.median, second.spread) == (whole.median, whole.spread)


def test_the_slow_beginning_of_a_fault_does_not_count() -> None:
    baseline = Baseline(window=20, delay=3)
    for value in [1.0] * 10 + [2.0, 3.0, 4.0]:
        baseline.add(value)
    baseline.freeze()
    for value in [9.0] * 3:
        baseline.add(value)
    assert (baseline.median, len(baseline)) == (1.0, 10)
    baseline.add(9.0)
    assert list(baseline.values) == [1.0] * 10 + [9.0], "2, 3 and 4 never count"


def test_another_level_can_become_normal() -> None:
    baseline = Baseline(window=8)
    for _ in range(20):
        baseline.add(1.0)
    baseline.restart([5.0, 6.0, 7.0])
    assert baseline.median == 6.0


def test_spread_estimates_a_standard_deviation() -> None:
    draw = random.Random(0)
    baseline = Baseline(4000, delay=0)
    for _ in range(4000):
        baseline.add(draw.gauss(3.0, 2.0))
    assert baseline.spread == pytest.approx(2.0, rel=0.05)
    assert baseline.wander == pytest.approx(2.0, rel=0.05)


def test_wander_counts_far_values_that_the_spread_does_not() -> None:
    baseline = Baseline(delay=0)
    for value in [0.0] * 8 + [10.0, -10.0]:
        baseline.add(value)
    assert baseline.spread == 0.0
    assert baseline.wander == pytest.approx(1.2533 * 2.0)


def test_median_of_an_even_number() -> None:
    assert median_of_sorted([1.0, 2.0, 4.0, 8.0]) == 3.0


def fed(values: list[float], **options: float) -> Change:
    change = Change(**options)
    for value in values:
        change.add(value)
    return change


def test_nothing_is_said_of_the_first_values() -> None:
    assert fed([1.0] * 8).sigmas is None
    assert fed([1.0] * 9).sigmas == 0.0


def test_a_step_is_measured_in_its_noise() -> None:
    draw = random.Random(1)
    change = fed([draw.gauss(0.0, 0.1) for _ in range(50)] + [draw.gauss(1.0, 0.1) for _ in range(60)])
    assert change.change == pytest.approx(1.0, abs=0.15)
    assert 5 < change.sigmas < 15


def test_noise_estimates_a_standard_deviation() -> None:
    draw = random.Random(2)
    assert fed([draw.gauss(0, 3) for _ in range(2000)]).noise == pytest.approx(3.0, rel=0.2)


def test_a_change_without_noise_is_larger_than_any_limit() -> None:
    assert fed([1.0] * 8 + [1.0]).sigmas == 0.0
    change = fed([1.0] * 100, early=8)
    change.noise, change.mean = 0.0, 2.0
    assert change.sigmas == 1e9


@pytest.mark.parametrize("correlation", [0.0, 0.6, 0.85])
def test_wander_is_the_standard_deviation_of_correlated_values_beside_a_trend(correlation: float) -> None:
    draw, value, values = random.Random(3), 0.0, []
    for step in range(2000):
        value = correlation * value + (1 - correlation**2) ** 0.5 * draw.gauss(0, 1)
        values.append(3.0 * value + 0.1 * step)
    assert fed(values, memory=2000).wander == pytest.approx(3.0, rel=0.2)


@given(st.lists(st.floats(-1e6, 1e6) | st.floats(1e9, 1e9 + 1e-3), min_size=1, max_size=40), st.floats(0, 2.0))
@example([-1.0, 0.0, 1.0], 0.8)
def test_a_wander_that_is_within_some_size_is_told_without_it(values: list[float], share: float) -> None:
    baseline = Baseline(32, delay=0)
    for value in values:
        baseline.add(value)
    sigma = share * baseline.wander
    assert baseline.wander <= sigma or not baseline.wanders_within(sigma), "it may doubt, and is never wrong"
    assert baseline.wanders_within(1.5 * baseline.wander) or baseline.wander <= 1e-9 * max(map(abs, values))


@given(st.lists(st.tuples(st.sampled_from([-1.0, -0.0, 0.0, 1.0, 2.5]) | st.floats(-9, 9), st.booleans()), max_size=60))
def test_values_that_nobody_looks_at_are_in_order_when_somebody_does(values: list[tuple[float, bool]]) -> None:
    seldom, always = Baseline(8, delay=1), Baseline(8, delay=1)
    for value, looks in values:
        seldom.add(value)
        always.add(value)
        assert always.ordered == sorted(always.values)
        if looks:
            assert list(map(str, seldom.ordered)) == list(map(str, always.ordered))
