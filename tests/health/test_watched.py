"""Rules that are judged beside the training: told from the others, and carried as plain data."""

from __future__ import annotations

import json

import pytest

from rldk_tracking.health.engine import Engine
from rldk_tracking.health.presets import builtin_rules, rules_for
from rldk_tracking.health.rule import Rule
from rldk_tracking.health.watched import as_data, from_data, is_watched, row_rules, silence_of, watched_rules

RULES = builtin_rules()

MINE = Rule(
    id="mine.slow",
    keys=("rldk/run/silent_seconds",),
    condition="level",
    parameters={"threshold": 30.0},
    message="Silent for {value:.0f} s.",
)


def test_the_built_in_ones_are_those_of_the_family_run() -> None:
    rules = rules_for()
    assert [rule.id for rule in watched_rules(rules)] == ["run.crashed", "run.hung"]
    assert len(row_rules(rules)) == len(rules) - 2
    assert not any(is_watched(rule) for rule in row_rules(rules))


def test_an_engine_of_row_rules_does_not_miss_them() -> None:
    assert {"run.crashed", "run.hung"} & set(Engine(row_rules(rules_for())).unknown()) == set()


def test_a_users_rule_on_such_a_key_is_one() -> None:
    assert watched_rules([MINE, RULES["kl.high"]]) == [MINE]


def test_they_go_through_json_with_what_was_changed() -> None:
    overrides = {
        "run.hung": {"threshold": 300.0, "message": "Nothing since {value:.0f} s.", "severity": "critical"},
        "run.crashed": {"actions": [{"webhook": "https://example.com/secret"}, "save"]},
    }
    rules = [*rules_for(overrides=overrides), MINE]
    text = json.dumps(as_data(rules))
    assert "secret" not in text and "actions" not in text
    back = {rule.id: rule for rule in from_data(json.loads(text))}
    assert set(back) == {"run.crashed", "run.hung", "mine.slow"}
    expected = {rule.id: rule.model_copy(update={"actions": (), "page": None}) for rule in watched_rules(rules)}
    assert back == expected
    assert back["run.hung"].parameters["threshold"] == 300.0 and back["run.hung"].severity == "critical"


def test_one_that_is_off_is_missing() -> None:
    rules = rules_for(overrides={"run.hung": {"enabled": False}})
    assert set(as_data(rules)) == {"run.crashed"}
    assert silence_of(rules) is None


def test_how_long_a_silence_may_last_is_the_rules() -> None:
    found = silence_of(rules_for(overrides={"run.hung": {"threshold": 7.0, "stacks": False}}))
    assert found is not None
    assert (found.threshold, found.times, found.stacks) == (7.0, 10.0, False)
    assert silence_of([MINE]) is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"run.hung": {"keys": [], "condition": "silence"}}, "'run.hung' is no rule"),
        ({"run.hung": {"keys": ["rldk/run/gone"], "condition": "magic"}}, "unknown condition"),
        ({"run.hung": {"keys": ["rldk/kl/ref_k1"], "condition": "level", "parameters": {"threshold": 1}}}, "beside"),
        ({"run.hung": {1: 2}}, "no rule"),
    ],
)
def test_what_is_no_rule_is_refused(data, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_data(data)


def test_actions_in_the_data_are_not_taken() -> None:
    data = {"run.hung": {"keys": ["rldk/run/gone"], "condition": "level", "parameters": {"threshold": 0}}}
    data["run.hung"]["actions"] = ["stop"]
    assert from_data(data)[0].actions == ()
