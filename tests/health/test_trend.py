"""A verdict over long runs in bounded memory."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import theilslopes

from rldk_tracking.health.detectors.baseline import theil_sen
from rldk_tracking.health.trend import HALF, RunTrend


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
def test_state_goes_on_where_it_was(values: list[float], cut: int) -> None:
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
