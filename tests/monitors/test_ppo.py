from __future__ import annotations

import pytest

from rldk_tracking.monitors.ppo import PPOMonitor


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
    with pytest.raises(ValueError, match="gradient_threshold must be a number of at least 0"):
        PPOMonitor(gradient_threshold=limit)


def test_before_training_every_metric_is_unknown() -> None:
    assert set(PPOMonitor().metrics.to_dict().values()) == {None}


def test_the_advanced_monitor_judges_by_the_strict_preset() -> None:
    from rldk_tracking.monitors.ppo import AdvancedPPOMonitor

    assert AdvancedPPOMonitor(kl_threshold=0.08)._settings.rules == "strict"
    assert AdvancedPPOMonitor(enable_advanced_analytics=False)._settings.rules == "safe"
    assert AdvancedPPOMonitor(kl_threshold=0.08)._settings.overrides["kl.high"] == {"threshold": 0.08}
