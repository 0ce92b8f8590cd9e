"""Trend tests against scipy, a verdict over long runs in bounded memory, and what tells success from collapse."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rldk_tracking.health.detectors.trend import (
    HALF,
    REWARD_MEAN,
    TIED_AT_TOP,
    Progress,
    RunTrend,
    mann_kendall,
    theil_sen,
)

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
            trend.add(slope * step + draw.gauss(0, 0.5))
        right += trend.verdict() == verdict
    assert right >= 38, "at most one run in twenty is misjudged"


def test_slope_is_per_observation_and_memory_is_bounded() -> None:
    trend = RunTrend()
    for step in range(10_000):
        trend.add(3.0 * step)
    assert trend.slope == pytest.approx((3.0, 3.0, 3.0))
    assert len(trend.blocks) < 2 * HALF
    assert len(json.dumps(trend.state())) < 2000


def test_nothing_is_said_of_a_short_run() -> None:
    trend = RunTrend()
    for step in range(7):
        trend.add(float(step))
    assert (trend.verdict(), trend.slope, trend.effect) == (None, None, None)


def test_a_constant_is_a_plateau() -> None:
    trend = RunTrend()
    for _ in range(50):
        trend.add(2.0)
    assert (trend.verdict(), trend.effect) == ("plateau", 0.0)


@given(st.lists(st.floats(-100, 100), max_size=150), st.integers(0, 150))
def test_state_goes_on_where_it_was(values: list[float], cut: int) -> None:
    whole, first, second = RunTrend(), RunTrend(), RunTrend()
    for value in values:
        whole.add(value)
    for value in values[:cut]:
        first.add(value)
    second.load_state(json.loads(json.dumps(first.state())))
    for value in values[cut:]:
        second.add(value)
    assert second.state() == whole.state()


STD = "rldk/reward/std"


def fed(rows: list[dict[str, float]], **options: float) -> Progress:
    progress = Progress(**options)
    for row in rows:
        progress.add(row)
    return progress


def climb(last: float = 1.0, steps: int = 60) -> list[dict[str, float]]:
    return [{REWARD_MEAN: 0.2 + (last - 0.2) * i / steps, STD: 0.3} for i in range(steps)] + [
        {REWARD_MEAN: last, STD: 0.05}
    ] * 10


def test_a_climb_that_stays_at_its_best_is_solved() -> None:
    progress = fed(climb())
    assert progress.climbed and progress.at_best and progress.solved and progress.excuses
    assert not progress.at_lowest


def test_not_where_the_ties_are_below_the_top() -> None:
    assert not fed([{**row, TIED_AT_TOP: 0.1} for row in climb()]).solved
    assert fed([{**row, TIED_AT_TOP: 0.9} for row in climb()]).solved


def test_a_rise_within_the_spread_of_single_rewards_is_no_climb() -> None:
    progress = fed(climb(last=0.4))
    assert not progress.climbed and not progress.solved and not progress.excuses


def test_a_fall_ends_it() -> None:
    progress = fed(climb() + [{REWARD_MEAN: 0.3}] * 10)
    assert progress.climbed and not progress.at_best and not progress.solved
    assert fed(climb() + [{REWARD_MEAN: 0.0}] * 30).at_lowest


def test_a_known_ceiling_decides() -> None:
    assert not fed(climb(), ceiling=2.0).solved
    assert fed(climb(last=1.95), ceiling=2.0).solved


def test_a_reward_that_has_stopped_below_the_top_excuses_nothing() -> None:
    stuck = climb() + [{REWARD_MEAN: 0.9, TIED_AT_TOP: 0.0}] * 40
    assert not fed(stuck).excuses


def test_near_the_ceiling_follows_from_mean_and_spread() -> None:
    assert fed([{REWARD_MEAN: 0.9, STD: 0.3}] * 10).near_ceiling
    assert not fed([{REWARD_MEAN: 0.1, STD: 0.3}] * 10).near_ceiling
    assert not fed([{REWARD_MEAN: 0.5, STD: 0.0}] * 10).near_ceiling, "a constant tells nothing"
    assert not fed([{REWARD_MEAN: -0.5, STD: 0.1}] * 10).near_ceiling


def test_nothing_is_claimed_without_rewards() -> None:
    progress = fed([{STD: 0.3}])
    assert not (progress.solved or progress.excuses or progress.near_ceiling or progress.at_best)


def test_a_trend_that_is_certain_and_too_small_to_matter_is_a_plateau() -> None:
    draw = random.Random(1)
    trend = RunTrend()
    for step in range(20_000):
        trend.add(2e-5 * step + draw.gauss(0, 1))
    assert trend.score > 2.6 and 0.0 < trend.effect < 0.6
    assert trend.verdict() == "plateau"


def test_a_new_best_gives_the_reward_time_to_rise_further() -> None:
    climbing = [{REWARD_MEAN: 0.2 + 0.02 * i, STD: 0.3, TIED_AT_TOP: 0.0} for i in range(40)]
    progress = fed(climbing)
    assert progress.since_best == 0 and not progress.solved and progress.excuses
    assert fed(climbing + [climbing[-1]] * 18).since_best > 0


def test_a_low_reward_of_few_large_ones_may_be_near_the_ceiling() -> None:
    assert fed([{REWARD_MEAN: 0.1, STD: 0.05}] * 10).near_ceiling, "0.125 or nothing: four fifths get it"


def test_the_share_of_ties_at_the_top_is_a_mean_over_some_rows() -> None:
    progress = fed([{TIED_AT_TOP: 1.0}] * 20 + [{TIED_AT_TOP: 0.0}])
    assert progress.all_max == pytest.approx(0.8)
    assert fed([{TIED_AT_TOP: 0.0}] * 20 + [{TIED_AT_TOP: 1.0}] * 2).all_max == pytest.approx(0.36)
