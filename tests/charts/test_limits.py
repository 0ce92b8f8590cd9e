from __future__ import annotations

from rldk_tracking.charts.limits import LIMITED, limits_of
from rldk_tracking.health.catalogue import RULES
from rldk_tracking.health.goals import GOALS
from rldk_tracking.keys import lookup
from rldk_tracking.monitors.ppo import PPOMonitor
from rldk_tracking.rollout import Rollout
from rldk_tracking.trackers.memory import InMemoryTracker


def test_only_limits_that_were_given_are_shown() -> None:
    assert limits_of({}, {}) == {}
    assert limits_of({"kl.high": {"threshold": 0.2}, "lr.zero": {"threshold": 1.0}}, {"min_entropy": 1.0}) == {
        "rldk/kl/limit": 0.2
    }
    assert limits_of({"kl.high": {"cooldown_steps": 5}}, {"max_gradient_norm": 3}) == {"rldk/grad/limit": 3.0}


def test_every_rule_and_series_is_there() -> None:
    assert {name for name in LIMITED if name not in RULES and name.removeprefix("goal.") not in GOALS} == set()
    assert [key for key in LIMITED.values() if lookup(key) is None] == []


def test_they_run_along_with_the_run() -> None:
    import torch

    tracker = InMemoryTracker()
    with PPOMonitor(kl_threshold=0.1, trackers=[tracker], strict=True) as monitor:
        for step in (1, 2):
            monitor.observe(Rollout(mask=torch.ones(2, 2), scores=torch.rand(2)), step=step)
    assert tracker.series["rldk/kl/limit"] == [(1, 0.1), (2, 0.1)]
