"""The trend of a run against scipy and pairs, what is said of it, and that sound runs do not diverge."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.stats import theilslopes

from rldk_tracking.health.detectors.trend import HALF, RunTrend, mann_kendall, theil_sen

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


def noisy(draw: random.Random, levels: list[float], noise: float, correlation: float) -> list[float]:
    """The levels with a first-order autoregression beside them."""
    values, beside = [], draw.gauss(0, 1)
    for level in levels:
        beside = correlation * beside + (1 - correlation**2) ** 0.5 * draw.gauss(0, 1)
        values.append(level + noise * beside)
    return values


def words(values: list[float]) -> list[str]:
    """The verdict of every row that has one."""
    trend, said = RunTrend(), []
    for step, value in enumerate(values):
        trend.add(step, value)
        said.append(trend.verdict())
    return [word for word in said if word is not None]


@pytest.mark.parametrize("correlation", [0.0, 0.6])
@pytest.mark.parametrize("rows", [120, 400, 3000])
@pytest.mark.parametrize(
    ("parts", "word"),
    [
        ([(0.5, 0.8, 0.8), (0.5, 0.4, 0.4)], "diverging"),  # a step down, then flat
        ([(0.25, 0.2, 0.8), (0.15, 0.8, 0.8), (0.6, 0.45, 0.45)], "diverging"),  # more than half of a gain is lost
        ([(0.75, 0.2, 0.8), (0.25, 0.3, 0.3)], "diverging"),  # it rose for most of the run, and fell
        ([(0.5, 0.2, 0.8), (0.1, 0.8, 0.72), (0.4, 0.72, 0.72)], None),  # little is lost
        ([(0.4, 0.8, 0.8), (0.3, 0.2, 0.2), (0.3, 0.2, 0.65)], None),  # it is on its way back
        ([(0.5, 0.2, 0.8), (0.5, 0.8, 0.8)], None),  # it stays where it came to
    ],
)
def test_a_reward_that_fell_and_lies_flat_diverges(parts, word, rows: int, correlation: float) -> None:
    draw = random.Random(rows)
    levels = [a + (b - a) * i / (share * rows) for share, a, b in parts for i in range(round(share * rows))]
    found = words(noisy(draw, levels, 0.04, correlation))
    assert (found[-1] == "diverging") is (word == "diverging"), found[-1]


def test_rows_that_repeat_a_rollout_have_no_less_noise() -> None:
    draw = random.Random(0)
    once = noisy(draw, [0.5] * 200, 0.1, 0.6)
    trend, repeated = RunTrend(), RunTrend()
    for step, value in enumerate(once):
        trend.add(step, value)
        for row in range(4):
            repeated.add(4 * step + row, value)
    assert repeated.values.wander == trend.values.wander > 0.0


def test_nothing_goes_down_in_few_rows() -> None:
    values = [1.0 - 0.01 * row for row in range(40)]
    assert words(values)[: 31 - 7] == ["plateau"] * 24 and words(values)[31 - 7] == "diverging"


@pytest.mark.parametrize(("correlation", "share"), [(0.0, 0.002), (0.6, 0.01), (0.85, 0.04)])
def test_noise_about_a_level_hardly_ever_diverges(correlation: float, share: float) -> None:
    """Share of the rows: 0.0005 of 142,000 at correlations of 0 to 0.6, and 0.012 of 44,000 at 0.85."""
    draw = random.Random(1)
    found = [word for _ in range(15) for word in words(noisy(draw, [0.4] * 300, 0.05, correlation))]
    assert found.count("diverging") <= share * len(found)
