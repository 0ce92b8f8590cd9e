"""Median and spread of recent values against numpy and scipy, change since the first values, the cumulative sum."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.stats import theilslopes

from rldk_tracking.health.detectors.baseline import (
    HALF,
    Baseline,
    Change,
    RunTrend,
    mann_kendall,
    median_of_sorted,
    theil_sen,
)

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


SERIES = st.lists(st.integers(-50, 50).map(float), min_size=4, max_size=32)


@given(SERIES)
def test_slope_is_scipys(values: list[float]) -> None:
    _, slope, _ = theil_sen(values)
    assert slope == pytest.approx(stats.theilslopes(values).slope, abs=1e-12)


def test_the_interval_holds_the_true_slope_as_often_as_it_says() -> None:
    held = 0
    for seed in range(400):
        draw = random.Random(seed)
        low, slope, high = theil_sen([0.3 * i + draw.gauss(0, 2) for i in range(24)])
        assert low <= slope <= high
        held += low <= 0.3 <= high
    assert 0.93 <= held / 400 <= 0.99


@given(SERIES)
def test_score_is_kendalls_by_pairs(values: list[float]) -> None:
    n = len(values)
    pairs = [(values[i], values[j]) for i in range(n) for j in range(i + 1, n)]
    s = sum((b > a) - (b < a) for a, b in pairs)
    ties = [values.count(value) for value in set(values)]
    variance = (n * (n - 1) * (2 * n + 5) - sum(t * (t - 1) * (2 * t + 5) for t in ties)) / 18
    expected = 0.0 if s == 0 or variance <= 0 else (s - (1 if s > 0 else -1)) / variance**0.5
    assert mann_kendall(values) == pytest.approx(expected)


def test_score_agrees_with_scipys_p_value() -> None:
    draw = random.Random(0)
    values = [0.05 * i + draw.gauss(0, 1) for i in range(40)]
    p = stats.kendalltau(range(40), values, method="asymptotic").pvalue
    assert 2 * stats.norm.sf(abs(mann_kendall(values))) == pytest.approx(p, rel=0.1)


@pytest.mark.parametrize(("slope", "verdict"), [(0.01, "improving"), (-0.01, "diverging"), (0.0, "plateau")])
def test_verdict(slope: float, verdict: str) -> None:
    right = 0
    for seed in range(40):
        draw = random.Random(seed)
        trend = RunTrend()
        for step in range(300):
            trend.add(step, slope * step + draw.gauss(0, 0.5))
        right += trend.verdict() == verdict
    assert right >= 38, "at most one run in twenty is misjudged"


def test_memory_is_bounded() -> None:
    trend = RunTrend()
    for step in range(10_000):
        trend.add(step, 3.0 * step)
    assert trend.slope == pytest.approx((3.0, 3.0, 3.0))
    assert len(trend.blocks) < 2 * HALF
    assert len(json.dumps(trend.state())) < 2000


def test_nothing_is_said_of_a_short_run() -> None:
    trend = RunTrend()
    for step in range(7):
        trend.add(step, float(step))
    assert (trend.verdict(), trend.slope, trend.effect) == (None, None, None)


def test_a_constant_is_a_plateau() -> None:
    trend = RunTrend()
    for step in range(50):
        trend.add(step, 2.0)
    assert (trend.verdict(), trend.effect) == ("plateau", 0.0)


@given(st.lists(st.floats(-100, 100), max_size=150), st.integers(0, 150))
def test_the_state_of_a_trend_goes_on_where_it_was(values: list[float], cut: int) -> None:
    whole, first, second = RunTrend(), RunTrend(), RunTrend()
    for step, value in enumerate(values):
        whole.add(step, value)
    for step, value in enumerate(values[:cut]):
        first.add(step, value)
    second.load_state(json.loads(json.dumps(first.state())))
    for step, value in enumerate(values[cut:], cut):
        second.add(step, value)
    assert second.state() == whole.state()


def test_a_trend_that_is_certain_and_too_small_to_matter_is_a_plateau() -> None:
    draw = random.Random(1)
    trend = RunTrend()
    for step in range(20_000):
        trend.add(step, 2e-5 * step + draw.gauss(0, 1))
    assert trend.score > 2.6 and 0.0 < trend.effect < 0.6
    assert trend.verdict() == "plateau"


def test_the_interval_has_the_ranks_of_sen() -> None:
    """Sen (1968): of N slopes those of rank (N - C) / 2 and (N + C) / 2 + 1, C = 1.96 sqrt(n (n - 1) (2n + 5) / 18)."""
    values = [2.0**i for i in range(8)]
    slopes = sorted((values[j] - values[i]) / (j - i) for i in range(8) for j in range(i + 1, 8))
    assert theil_sen(values) == (slopes[5], (slopes[13] + slopes[14]) / 2, slopes[22])  # C is 15.8 of 28


@pytest.mark.parametrize("seed", range(5))
def test_slope_and_interval_are_those_of_scipy(seed: int) -> None:
    draw = random.Random(seed)
    steps = sorted(draw.sample(range(200), 25))
    values = [0.3 * step + draw.gauss(0, 10) for step in steps]
    slope, _, low, high = theilslopes(values, steps)
    assert theil_sen(values, steps) == pytest.approx((low, slope, high))


def test_there_is_no_slope_at_one_place() -> None:
    assert theil_sen([1.0, 2.0], [5.0, 5.0]) is None


def test_a_rollout_that_feeds_four_steps_has_the_slope_per_step() -> None:
    trend = RunTrend()
    for step in range(1, 241, 4):
        trend.add(step, 0.003 * step)
    assert trend.slope == pytest.approx((0.003, 0.003, 0.003))
