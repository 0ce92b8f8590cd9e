from __future__ import annotations

import pytest

from rldk_tracking.monitors.ppo import AdvancedPPOMonitor, PPOMonitor
from rldk_tracking.probes.optimizer import OptimizerProbe
from rldk_tracking.probes.rollouts import RolloutProbe
from rldk_tracking.trackers.memory import InMemoryTracker


def test_the_users_limits_become_overrides_of_the_rules() -> None:
    monitor = PPOMonitor(kl_threshold=0.1, reward_threshold=0.05, gradient_threshold=1.0, output_dir="logs")
    assert monitor._settings.overrides == {
        "kl.high": {"threshold": 0.1},
        "reward.no_signal": {"threshold": 0.05},
        "grad.explosion": {"threshold": 1.0},
    }
    assert monitor._settings.output_dir == "logs"


def test_without_limits_the_rules_stand() -> None:
    assert PPOMonitor()._settings.overrides == {}


def test_an_override_named_by_rule_wins() -> None:
    monitor = PPOMonitor(kl_threshold=0.1, overrides={"kl.high": {"threshold": 0.3}})
    assert monitor._settings.overrides["kl.high"] == {"threshold": 0.3}


@pytest.mark.parametrize("limit", [-0.1, float("nan"), "0.1"])
def test_a_limit_that_cannot_be_is_named(limit: float) -> None:
    with pytest.raises((ValueError, TypeError), match="gradient_threshold must be a number of at least 0"):
        PPOMonitor(gradient_threshold=limit)


def test_before_training_every_metric_is_unknown() -> None:
    assert set(PPOMonitor().metrics.to_dict().values()) == {None}


def test_it_looks_at_rollouts_alone_and_the_advanced_one_at_the_optimizer_too() -> None:
    assert [type(probe) for probe in PPOMonitor().make_probes()] == [RolloutProbe]
    rollouts, optimizer = AdvancedPPOMonitor().make_probes()
    assert isinstance(rollouts, RolloutProbe) and isinstance(optimizer, OptimizerProbe)
    assert optimizer.level == "full"
    assert [type(probe) for probe in AdvancedPPOMonitor(enable_advanced_analytics=False).make_probes()] == [
        RolloutProbe
    ]


def test_the_metrics_are_those_of_the_latest_row() -> None:
    with PPOMonitor(trackers=[InMemoryTracker()], strict=True) as monitor:
        monitor.observe(step=3, metrics={"rldk/reward/mean": 0.5, "rldk/kl/ref_k1": 0.25, "rldk/grad/norm": 2.0})
        metrics = monitor.metrics
    assert metrics.step == 3 and metrics.rollout_length_mean is None
    assert (metrics.rollout_reward_mean, metrics.policy_kl_mean, metrics.grad_norm) == (0.5, 0.25, 2.0)
    assert monitor.metrics == metrics, "afterwards too"


def test_the_users_limit_is_what_is_judged() -> None:
    tracker = InMemoryTracker()
    with PPOMonitor(kl_threshold=0.1, trackers=[tracker], strict=True) as monitor:
        for step in range(1, 41):
            monitor.observe(step=step, metrics={"rldk/kl/ref_k1": 0.2})
    assert [(alert.rule, alert.threshold) for alert in monitor.alerts] == [("kl.high", 0.1)]
    assert set(tracker.series["rldk/kl/limit"]) == {(step, 0.1) for step in range(1, 41)}


def test_the_advanced_monitor_judges_by_the_strict_preset() -> None:
    assert AdvancedPPOMonitor(kl_threshold=0.08)._settings.rules == "strict"
    assert AdvancedPPOMonitor(enable_advanced_analytics=False)._settings.rules == "safe"
    assert AdvancedPPOMonitor(kl_threshold=0.08)._settings.overrides["kl.high"] == {"threshold": 0.08}
