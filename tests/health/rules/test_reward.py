"""Rules about reward, advantage, length and diversity."""

from __future__ import annotations

import pytest

from rldk_tracking.health.engine import Engine
from rldk_tracking.health.presets import builtin_rules

RULES = builtin_rules()

MEAN, STD, TIED = "rldk/reward/mean", "rldk/reward/std", "rldk/reward/group_tied_fraction"
ALL_MAX = f"{TIED}_all_max"


def hacked(since, row):
    """The total goes on past 1, and the held-out score stays."""
    return {MEAN: 0.45 + 0.02 * since, "rldk/reward/gold": 0.4}


CASES = {
    "reward.no_signal": lambda case: case(lambda since, row: {TIED: 1.0, STD: 0.0, MEAN: 0.5}, within=6),
    "reward.saturated": lambda case: case(
        lambda since, row: {TIED: 1.0, STD: 0.0, MEAN: 1.0, ALL_MAX: 1.0}, within=25, severity="info"
    ),
    "reward.silent_function": lambda case: case(
        lambda since, row: {"rldk/reward/function/rare/none_fraction": 1.0}, within=20
    ),
    "reward.collapse": lambda case: case(lambda since, row: {MEAN: 0.02}, within=10),
    "reward.hacking": lambda case: case(hacked, within=40),
    "advantage.scale": lambda case: case(lambda since, row: {"rldk/advantage/abs_p99": 60.0}, within=3),
    "length.explosion": lambda case: case(lambda since, row: {"rldk/length/mean": 900.0}, within=8),
    "length.collapse": lambda case: case(lambda since, row: {"rldk/length/mean": 3.0}, within=8),
    "length.truncated": lambda case: case(lambda since, row: {"rldk/length/truncated_fraction": 0.95}, within=8),
    "diversity.collapse": lambda case: case(
        lambda since, row: {"rldk/diversity/unique_fraction": 0.05, "rldk/reward/mean": 0.4}, within=10
    ),
}


@pytest.mark.parametrize("rule", CASES)
def test_rule(rule, case, check) -> None:
    check(rule, CASES[rule](case))


@pytest.mark.parametrize(("ceiling", "gold", "within"), [(1.0, 0.3, 40), (1.0, 0.4, 60), (9.0, 0.3, 40)])
def test_hacking_is_found_whether_the_reward_has_a_ceiling_or_not(ceiling, gold, within, case, check) -> None:
    check(
        "reward.hacking",
        case(lambda since, row: {MEAN: min(ceiling, 0.45 + 0.02 * since), "rldk/reward/gold": gold}, within=within),
    )


def test_solved_is_not_collapsed(healthy) -> None:
    """Entropy, spread and diversity go while the reward climbs to its ceiling: info, and nothing else."""
    engine = Engine(RULES.values())
    alerts = []
    for step, row in enumerate(healthy(1, 400)):
        done = min(1.0, step / 200)
        row |= {
            MEAN: 0.2 + 0.8 * done,
            STD: 0.3 * (1 - done),
            "rldk/policy/entropy": 1.2 * (1 - done) + 0.01,
            "rldk/diversity/unique_fraction": 1 - 0.9 * done,
            TIED: max(0.0, 2 * done - 1),
            ALL_MAX: max(0.0, 2 * done - 1),
            "rldk/reward/gold": 0.2 + 0.8 * done,
        }
        alerts += engine.update(step, row)
    assert [(alert.rule, alert.severity) for alert in alerts] == [("reward.saturated", "info")]
    assert engine.convergence == "solved"


def test_a_constant_reward_is_not_solved(healthy) -> None:
    engine = Engine(RULES.values())
    alerts = []
    for step, row in enumerate(healthy(2, 200)):
        if step >= 100:
            row |= {MEAN: 0.5, STD: 0.0, TIED: 1.0, ALL_MAX: 1.0}
        alerts += engine.update(step, row)
    assert [alert.rule for alert in alerts if alert.severity != "info"] == ["reward.no_signal"]


def test_hacking_is_unknown_without_a_second_signal(healthy) -> None:
    engine = Engine([RULES["reward.hacking"]])
    for step in range(100):
        engine.update(step, {MEAN: 0.01 * step})
    assert engine.unknown() == ["reward.hacking"]
    assert "rldk/health/reward_hacking_risk" not in engine.scores()


def test_every_rule_has_a_case() -> None:
    families = ("reward", "advantage", "length", "diversity")
    assert {name for name, rule in RULES.items() if rule.family in families} == set(CASES)
