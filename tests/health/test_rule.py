"""Rules as data: what is refused, and where a condition's numbers come from."""

from __future__ import annotations

import json

import pytest

from rldk_tracking.health.conditions import CONDITIONS
from rldk_tracking.health.parameters import parameters_of
from rldk_tracking.health.presets import builtin_rules
from rldk_tracking.health.rule import FAMILIES, Rule, RuleError

RULES = builtin_rules()

PLAIN = {"id": "mine.high", "keys": ("x",), "condition": "level", "parameters": {"threshold": 1.0}}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"id": "no_dot"}, "id must be FAMILY.PROBLEM in small letters, such as .*, got 'no_dot'"),
        ({"id": "Upper.case"}, "id"),
        ({"keys": ()}, "keys must name a series"),
        ({"keys": "x"}, r"keys: a list of series is wanted, got 'x': write \['x'\]"),
        ({"condition": "magic"}, "unknown condition 'magic'; there are below_zero"),
        ({"parameters": {"thresold": 1.0}}, "no parameter 'thresold'; did you mean threshold"),
        ({"parameters": {}}, "condition 'level' needs threshold: write parameters="),
        (
            {"parameters": {"threshold": 1.0, "direction": "sideways"}},
            'direction must be "above" or "below", got .sideways.',
        ),
        ({"severity": "fatal"}, "severity must be 'info', 'warning' or 'critical', got 'fatal'"),
        ({"persistence": (3, 2)}, "persistence"),
        ({"cooldown_steps": -1}, "cooldown_steps must be greater than or equal to 0, got -1"),
        ({"clear_after": "3"}, "clear_after must be a valid integer, got '3'"),
        ({"persistence": ("2", 3)}, "persistence must be a valid integer, got '2'"),
        ({"persistence": 3}, r"persistence must be \(k, n\), breached in k of the last n rows, got 3"),
        ({"settings": {"nothing": "lr"}}, "no parameter 'nothing'"),
        ({"message": "{value.__class__}"}, "plain fields only"),
        ({"message": "{value!r}"}, "plain fields only"),
        ({"message": "{value:>999999999}"}, "too long"),
        ({"message": "{value:d}"}, "{value:d} cannot be filled"),
        ({"message": "{reward:q}"}, "{reward:q} cannot be filled"),
        ({"message": "{value"}, "message: "),
        ({"colour": "red"}, "there is no field 'colour'"),
        ({"treshold": 1}, "there is no field 'treshold'"),
        ({"threshold": 1}, "threshold is a parameter of condition 'level': write parameters="),
        ({"keys": ("rldk/lenght/mean",)}, "there is no series 'rldk/lenght/mean'; did you mean rldk/length/mean"),
    ],
)
def test_what_makes_no_rule_is_refused(fields, message: str) -> None:
    with pytest.raises(RuleError, match=message):
        Rule(**{**PLAIN, **fields})


def test_a_rule_of_nothing_says_what_it_needs() -> None:
    with pytest.raises(RuleError) as refused:
        Rule()  # type: ignore[call-arg]
    assert str(refused.value) == (
        "a rule without an id: id and keys and condition are missing: write "
        'id="team.slow", keys=["rldk/reward/mean"], condition="level".'
    )


def test_evidence_may_be_a_word_or_a_number() -> None:
    for message in ("{key} {against}", "{rise:.3g}", "{step:d} {first_step:d}", "{value:.0%}"):
        assert Rule(**{**PLAIN, "message": message}).message == message


def test_a_parameter_comes_from_the_runs_settings_where_it_is_not_given() -> None:
    rule = Rule(**{**PLAIN, "settings": {"critical": "worst"}})
    assert rule.build({}).critical is None
    assert rule.build({"worst": 7.0}).critical == 7.0
    assert rule.build({"worst": "high"}).critical is None
    assert rule.build({"worst": float("nan")}).critical is None
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
    reward.collapse reward.saturated reward.silent_function value.explained_variance value.loss advantage.scale
    length.explosion
    length.collapse length.truncated diversity.collapse grad.explosion grad.vanishing grad.flow update.none
    update.frozen update.too_large lr.spike lr.zero sampler.mismatch preference.likelihood_collapse preference.overfit
    preference.no_signal preference.reference_mismatch
    memory.high memory.leak throughput.drop checkpoint.corrupt checkpoint.nonfinite checkpoint.unchanged
    checkpoint.drift checkpoint.incomplete checkpoint.disk tracker.down health.unstable run.crashed run.hung"""
    assert set(promised.split()) <= set(RULES)
