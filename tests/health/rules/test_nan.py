"""Rules about values that are not finite: critical, in the step in which it happens."""

from __future__ import annotations

import pytest

from rldk_tracking.health.presets import builtin_rules

RULES = builtin_rules()

KEYS = {"nan.weights": 3.0, "nan.gradients": 12.0, "nan.loss": 1.0, "nan.reward": 2.0}


@pytest.mark.parametrize("rule", KEYS)
def test_rule(rule, case, check) -> None:
    key = f"rldk/{rule.replace('.', '/')}"
    check(rule, case(lambda since, row: {key: KEYS[rule]}, within=0, severity="critical"))


def test_every_rule_has_a_case() -> None:
    families = ("nan",)
    assert {name for name, rule in RULES.items() if rule.family in families} == set(KEYS)
