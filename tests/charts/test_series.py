"""What is kept of a run is bounded and spans it; the rows of an earlier process; limits as series."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest

from rldk_tracking.charts.series import IN_EVERY_ROW, LIMIT_SERIES, MOST_POINTS, Earlier, Thinned, extremes, limits_of
from rldk_tracking.health.goals import GOALS
from rldk_tracking.health.presets import builtin_rules
from rldk_tracking.metrics.keys import lookup
from rldk_tracking.monitors.ppo import PPOMonitor
from rldk_tracking.rollout import Rollout
from rldk_tracking.trackers.memory import InMemoryTracker

RULES = builtin_rules()


def test_a_short_run_is_kept_whole() -> None:
    past = Thinned(most=10)
    for step in range(1, 9):
        past.add({"a": step * 2.0}, step)
    assert past.series == {"a": [(step, step * 2.0) for step in range(1, 9)]}
    assert past.step == 8
    assert past.row == {"a": 16.0}
    past.add({"b": 1.0}, 5)
    assert past.step == 8, "what became known of an earlier step"


@pytest.mark.parametrize("count", [10, 11, 99, 1000, 4321])
def test_a_long_run_is_thinned_evenly_and_keeps_its_ends(count: int) -> None:
    past = Thinned(most=10)
    for step in range(count):
        past.add({"a": float(step)}, step)
    points = past.series["a"]
    assert len(points) <= 11
    assert points[0] == (0, 0.0)
    assert points[-1] == (count - 1, count - 1.0)
    # Of each part the first and the last, which are the lowest and the highest here.
    assert len({late - early for early, late in pairwise([step for step, _ in points][:-2:2])}) <= 1


@pytest.mark.parametrize("peak", [3, 500, 4319])
def test_no_peak_of_a_long_run_is_lost(peak: int) -> None:
    past = Thinned(most=10)
    for step in range(4321):
        past.add({"a": 9.0 if step == peak else -9.0 if step == peak + 1 else step % 7 / 7}, step)
    assert {(peak, 9.0), (peak + 1, -9.0)} <= set(past.series["a"])
    assert len(past.series["a"]) <= 11


def test_a_value_that_is_no_number_takes_the_place_of_no_peak() -> None:
    assert extremes([(1, 0.0), (2, math.nan), (3, 5.0), (4, 1.0), (5, 0.5), (6, 0.7)], 2) == [(2, math.nan), (3, 5.0)]


def test_series_that_come_seldom_are_thinned_by_themselves() -> None:
    past = Thinned(most=10)
    for step in range(1000):
        past.add({"a": 1.0} | ({"b": float(step)} if step % 250 == 0 else {}), step)
    assert past.series["b"] == [(0, 0.0), (250, 250.0), (500, 500.0), (750, 750.0)]


def test_nothing_has_no_series() -> None:
    assert Thinned().series == {}
    assert Thinned().step is None
    with pytest.raises(ValueError, match="at least 4"):
        Thinned(3)


@pytest.fixture
def run_id(client: Any) -> str:
    """A run with rows of steps 1 to 5, of which one was sent twice."""
    from mlflow.entities import Metric

    run = client.create_run(client.create_experiment("tests")).info.run_id
    for step in (1, 2, 3, 3, 4, 5):
        values = {IN_EVERY_ROW: 0.0, "rldk/reward/mean": 0.1 * step, "rldk/unknown/series": 1.0}
        client.log_batch(run, metrics=[Metric(key, value, step, step) for key, value in values.items()])
    return str(run)


def test_the_steps_before_come_first_and_once(client: Any, run_id: str) -> None:
    earlier = Earlier(client, run_id, 4)
    series = earlier.before({"rldk/reward/mean": [(4, 9.0)], "rldk/unknown/series": [(4, 9.0)]})
    assert series["rldk/reward/mean"] == [(1, 0.1), (2, 0.2), (3, pytest.approx(0.3)), (4, 9.0)]
    assert series["rldk/unknown/series"] == [(4, 9.0)], "what no chart shows is not read"
    assert earlier.left_out is None


def test_a_run_of_one_part_has_nothing_before(client: Any, run_id: str) -> None:
    earlier = Earlier(client, run_id, 1)
    assert earlier.before({"rldk/reward/mean": [(1, 0.1)]}) == {"rldk/reward/mean": [(1, 0.1)]}
    assert earlier.left_out is None


def test_too_many_steps_stay_in_the_store(client: Any, run_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rldk_tracking.charts.series.MOST_STEPS", 2)
    earlier = Earlier(client, run_id, 4)
    assert earlier.before({"rldk/reward/mean": [(4, 9.0)]}) == {"rldk/reward/mean": [(4, 9.0)]}
    assert earlier.left_out == 3


def test_the_points_stay_few(client: Any, run_id: str) -> None:
    present = [(step, 1.0) for step in range(4, 4 + 3 * MOST_POINTS)]
    points = Earlier(client, run_id, 4).before({"rldk/reward/mean": present})["rldk/reward/mean"]
    assert len(points) <= MOST_POINTS + 1
    assert (points[0], points[-1]) == ((1, 0.1), present[-1])


def test_only_limits_that_were_given_are_shown() -> None:
    assert limits_of({}, {}) == {}
    assert limits_of({"kl.high": {"threshold": 0.2}, "lr.zero": {"threshold": 1.0}}, {"min_entropy": 1.0}) == {
        "rldk/kl/limit": 0.2
    }
    assert limits_of({"kl.high": {"cooldown_steps": 5}}, {"max_gradient_norm": 3}) == {"rldk/grad/limit": 3.0}


def test_every_rule_and_series_is_there() -> None:
    assert {name for name in LIMIT_SERIES if name not in RULES and name.removeprefix("goal.") not in GOALS} == set()
    assert [key for key in LIMIT_SERIES.values() if lookup(key) is None] == []


def test_they_run_along_with_the_run() -> None:
    import torch

    tracker = InMemoryTracker()
    with PPOMonitor(kl_threshold=0.1, trackers=[tracker], strict=True) as monitor:
        for step in (1, 2):
            monitor.observe(Rollout(mask=torch.ones(2, 2), scores=torch.rand(2)), step=step)
    assert tracker.series["rldk/kl/limit"] == [(1, 0.1), (2, 0.1)]
