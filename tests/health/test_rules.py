"""Rules as data: what is refused, and where a condition's numbers come from."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from rldk_tracking.health.catalogue import RULES
from rldk_tracking.health.conditions import CONDITIONS
from rldk_tracking.health.rules import FAMILIES, Rule, parameters_of

PLAIN = {"id": "mine.high", "keys": ("x",), "condition": "level", "parameters": {"threshold": 1.0}}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"id": "no_dot"}, "id"),
        ({"id": "Upper.case"}, "id"),
        ({"keys": ()}, "keys"),
        ({"condition": "magic"}, "unknown condition 'magic'; there are below_zero"),
        ({"parameters": {"thresold": 1.0}}, "no parameter 'thresold'; it has threshold"),
        ({"parameters": {}}, "threshold"),
        ({"parameters": {"threshold": 1.0, "direction": "sideways"}}, "direction must be one of"),
        ({"severity": "fatal"}, "severity"),
        ({"persistence": (3, 2)}, "persistence"),
        ({"cooldown_steps": -1}, "cooldown_steps"),
        ({"settings": {"nothing": "lr"}}, "no parameter 'nothing'"),
        ({"message": "{value.__class__}"}, "plain fields only"),
        ({"message": "{value!r}"}, "plain fields only"),
        ({"message": "{value:>999999999}"}, "too long"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_what_makes_no_rule_is_refused(fields, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Rule(**{**PLAIN, **fields})


def test_a_parameter_comes_from_the_runs_settings_where_it_is_not_given() -> None:
    rule = Rule(**{**PLAIN, "settings": {"critical": "worst"}})
    assert rule.build({}).critical is None
    assert rule.build({"worst": 7.0}).critical == 7.0
    assert rule.build({"worst": "high"}).critical is None
    given = Rule(**{**PLAIN, "parameters": {"threshold": 1.0, "critical": 2.0}, "settings": {"critical": "worst"}})
    assert given.build({"worst": 7.0}).critical == 2.0


def test_rules_go_through_json() -> None:
    for rule in RULES.values():
        assert Rule(**json.loads(rule.model_dump_json())) == rule


def test_every_built_in_rule_is_complete() -> None:
    for rule in RULES.values():
        assert rule.family in FAMILIES, rule.id
        assert rule.advice.endswith("."), rule.id
        assert rule.message.endswith("."), rule.id
        assert set(rule.parameters) <= set(parameters_of(rule.condition))
    silenced = {name for rule in RULES.values() for name in rule.silences}
    assert silenced <= set(RULES) | {f"{family}.*" for family in FAMILIES}


def test_every_condition_is_used() -> None:
    for_users = {"written", "shift"}
    assert {*(rule.condition for rule in RULES.values()), *for_users} == set(CONDITIONS)


def test_the_ids_that_are_promised_are_there() -> None:
    promised = """nan.weights nan.gradients nan.loss nan.reward kl.high kl.spike kl.negative reference.mismatch
    policy.clip_fraction policy.collapse policy.stale entropy.collapse entropy.explosion reward.no_signal reward.hacking
    reward.collapse reward.saturated value.explained_variance value.loss advantage.scale length.explosion
    length.collapse length.truncated diversity.collapse grad.explosion grad.vanishing grad.flow update.none
    update.frozen update.too_large lr.spike lr.zero sampler.mismatch preference.likelihood_collapse preference.overfit
    memory.high memory.leak throughput.drop checkpoint.corrupt checkpoint.nonfinite checkpoint.unchanged
    checkpoint.drift checkpoint.incomplete checkpoint.disk tracker.down health.unstable run.crashed run.hung"""
    assert set(RULES) == set(promised.split())
