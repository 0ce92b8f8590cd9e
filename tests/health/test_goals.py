from __future__ import annotations

import pytest

from rldk_tracking.health.engine import Engine
from rldk_tracking.health.goals import GOALS, rules_of
from rldk_tracking.metrics.keys import lookup


def test_a_target_is_told_once_when_it_is_reached() -> None:
    engine = Engine(rules_of({"target_reward": 1.0}))
    alerts = [alert for step in range(1, 21) for alert in engine.update(step, {"rldk/reward/mean": 0.1 * step})]
    assert [(alert.rule, alert.severity, alert.state) for alert in alerts] == [("goal.target_reward", "info", "firing")]
    assert 11 <= alerts[0].step <= 15


def test_a_limit_warns_while_it_is_exceeded() -> None:
    engine = Engine(rules_of({"max_kl_divergence": 0.1}))
    values = [0.05] * 10 + [0.2] * 10 + [0.05] * 10
    alerts = [a for step, v in enumerate(values, 1) for a in engine.update(step, {"rldk/kl/ref_k1": v})]
    assert [(alert.severity, alert.state) for alert in alerts] == [("warning", "firing"), ("warning", "resolved")]
    assert alerts[0].threshold == 0.1


def test_a_single_batch_beyond_it_is_noise() -> None:
    engine = Engine(rules_of({"min_entropy": 0.5}))
    values = [1.0, 0.4, 1.0, 1.0, 1.0, 0.4, 1.0, 1.0]
    assert [a for step, v in enumerate(values, 1) for a in engine.update(step, {"rldk/policy/entropy": v})] == []


def test_every_goal_judges_a_documented_series() -> None:
    assert [key for keys in GOALS.values() for key in keys if lookup(key) is None] == []


def test_an_unknown_goal_is_named_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"no 'target_rewrad'; did you mean target_reward"):
        rules_of({"target_rewrad": 1.0})
    with pytest.raises(ValueError, match="finite number, got nan"):
        rules_of({"target_reward": float("nan")})
