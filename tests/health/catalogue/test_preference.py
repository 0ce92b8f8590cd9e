"""Rules about preference training."""

from __future__ import annotations

import pytest

from rldk_tracking.health.catalogue import preference

CASES = {
    "preference.likelihood_collapse": lambda case: case(
        lambda since, row: {"rldk/preference/chosen_logps": -600.0}, within=20
    ),
    "preference.overfit": lambda case: case(lambda since, row: {"rldk/preference/accuracy": 1.0}, within=40),
}


@pytest.mark.parametrize("rule", CASES)
def test_rule(rule, case, check) -> None:
    check(rule, CASES[rule](case))


def test_every_rule_has_a_case() -> None:
    assert {rule.id for rule in preference.RULES} == set(CASES)
