"""Rules about preference training."""

from __future__ import annotations

import pytest

from rldk_tracking.health.presets import builtin_rules

RULES = builtin_rules()

CASES = {
    "preference.likelihood_collapse": lambda case: case(
        lambda since, row: {"rldk/preference/chosen_logps": -600.0}, within=20
    ),
    "preference.overfit": lambda case: case(lambda since, row: {"rldk/preference/accuracy": 1.0}, within=40),
    "preference.no_signal": lambda case: case(
        lambda since, row: {"rldk/preference/accuracy": 0.5 + 0.05 * (-1) ** since},
        within=230,
        begin=0,
        end=240,
        everywhere={"rldk/preference/margin": 0.1},
    ),
    "preference.reference_mismatch": lambda case: case(
        lambda since, row: {"rldk/preference/reward_chosen": 1.2},
        within=1,
        begin=0,
        end=30,
        everywhere={
            "rldk/preference/reward_chosen": 0.01,
            "rldk/preference/reward_rejected": -0.02,
            "rldk/preference/rejected_logps": -230.0,
        },
    ),
}


@pytest.mark.parametrize("rule", CASES)
def test_rule(rule, case, check) -> None:
    check(rule, CASES[rule](case))


def test_every_rule_has_a_case() -> None:
    families = ("preference",)
    assert {name for name, rule in RULES.items() if rule.family in families} == set(CASES)
