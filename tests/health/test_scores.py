"""A verdict over long runs in bounded memory, what tells success from collapse, and scores, each in [0, 1]."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rldk_tracking.health.catalogue import RULES
from rldk_tracking.health.detectors.baseline import theil_sen
from rldk_tracking.health.engine import Engine
from rldk_tracking.health.rules import Rule
from rldk_tracking.health.scores import (
    HALF,
    REWARD_MEAN,
    TIED_AT_TOP,
    Progress,
    RunTrend,
)


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


def test_the_interval_has_the_ranks_of_sen() -> None:
    """Sen (1968): of N slopes those of rank (N - C) / 2 and (N + C) / 2 + 1, C = 1.96 sqrt(n (n - 1) (2n + 5) / 18)."""
    values = [2.0**i for i in range(8)]
    slopes = sorted((values[j] - values[i]) / (j - i) for i in range(8) for j in range(i + 1, 8))
    assert theil_sen(values) == (slopes[6], (slopes[13] + slopes[14]) / 2, slopes[22])  # C is 15.8 of 28


PART = "rldk/health/"


def scored(rows, rules=None) -> tuple[dict[str, float], Engine]:
    engine = Engine(RULES.values() if rules is None else [RULES[name] for name in rules])
    for step, row in enumerate(rows):
        engine.update(step, row)
    return engine.scores(), engine


def test_a_healthy_run_scores_one(healthy) -> None:
    scores, engine = scored(healthy(0))
    assert scores["rldk/health/score"] == 1.0
    assert scores["rldk/health/stability"] == 1.0
    assert engine.convergence == "improving" and scores["rldk/health/convergence"] == 0.75
    low, slope, high = (scores[f"rldk/health/convergence_slope{end}"] for end in ("_low", "", "_high"))
    assert low < slope < high and slope == pytest.approx(0.4 / 300, rel=0.3)
    assert scores["rldk/health/policy_collapse_risk"] < 0.7
    assert scores["rldk/health/reward_hacking_risk"] < 0.5
    assert scores["rldk/health/memory_efficiency"] == pytest.approx(35 / 40, abs=0.1)
    bounded = [value for key, value in scores.items() if "slope" not in key]
    assert all(0.0 <= value <= 1.0 for value in bounded)


def test_only_parts_that_are_known_are_there() -> None:
    scores, _ = scored([{"rldk/nan/weights": 0.0}] * 3)
    assert scores == {f"{PART}nan": 1.0, "rldk/health/score": 1.0}
    assert scored([{"loss": 1.0}] * 30)[0] == {}


def test_alerts_lower_their_part_and_the_whole() -> None:
    warning = [{"rldk/length/truncated_fraction": 0.9, "rldk/nan/weights": 0.0}] * 10
    scores, _ = scored(warning)
    assert (scores[f"{PART}length"], scores[f"{PART}nan"], scores["rldk/health/score"]) == (0.5, 1.0, 0.5)
    critical = [row | {"rldk/nan/weights": 1.0} for row in warning]
    scores, _ = scored(warning + critical)
    assert scores["rldk/health/score"] == pytest.approx(0.05)


def test_info_costs_nothing() -> None:
    climb = [{"rldk/reward/mean": t / 50, "rldk/reward/std": 0.3} for t in range(50)]
    solved = [{"rldk/reward/mean": 1.0, "rldk/reward/std": 0.0, "rldk/reward/group_tied_fraction": 1.0}] * 30
    scores, engine = scored(climb + solved)
    assert [alert.rule for alert in engine.firing] == ["reward.saturated"]
    assert scores["rldk/health/score"] == 1.0
    assert engine.convergence == "solved" and scores["rldk/health/convergence"] == 1.0


def test_a_collapse_is_diverging() -> None:
    rows = [{"rldk/reward/mean": 0.8 + 0.01 * (t % 3)} for t in range(60)] + [{"rldk/reward/mean": 0.0}] * 20
    scores, engine = scored(rows)
    assert engine.convergence == "diverging" and scores["rldk/health/convergence"] == 0.0


def test_noise_is_a_plateau() -> None:
    rows = [{"rldk/reward/mean": 0.3 + 0.1 * ((t * 7919) % 13) / 13} for t in range(120)]
    assert scored(rows)[1].convergence == "plateau"


def test_stability_needs_rows_and_falls_with_spikes(healthy) -> None:
    assert "rldk/health/stability" not in scored(healthy(1, 10))[0]
    rows = [
        row | ({"rldk/grad/norm": 500.0} if step > 60 and step % 2 else {}) for step, row in enumerate(healthy(1, 90))
    ]
    assert 0.3 < scored(rows)[0]["rldk/health/stability"] < 0.7


@pytest.mark.parametrize("order", [("warning", "critical"), ("critical", "warning")])
def test_the_worst_alert_of_a_family_counts(order: tuple[str, str]) -> None:
    parameters = {"threshold": 1.0}
    engine = Engine(
        [
            Rule(id=f"user.{name}", keys=("x",), condition="level", parameters=parameters, severity=name, clear_after=1)
            for name in order
        ]
    )
    engine.update(0, {"x": 2.0})
    assert engine.scores() == {f"{PART}user": 0.1, "rldk/health/score": 0.1}


def test_stability_is_the_mean_over_about_twenty_rows() -> None:
    """An exponential mean of span 20 over the rows after the first, of which the last is not counted yet."""
    broken = [False] * 30 + [True] * 5 + [False] * 10
    scores, _ = scored([{"rldk/nan/weights": float(value)} for value in broken], ["nan.weights"])
    share = 0.0
    for value in broken[:-1][1:]:
        share += (value - share) * 2 / 21
    assert scores["rldk/health/stability"] == pytest.approx(1 - share)
    always, _ = scored([{"rldk/nan/weights": 1.0}] * 21, ["nan.weights"])
    assert always["rldk/health/stability"] == pytest.approx((19 / 21) ** 19), "what precedes the first row is stable"
