"""Presets and overrides."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rldk_tracking.health import presets
from rldk_tracking.health.engine import Engine
from rldk_tracking.health.presets import MAX_RULES, PRESETS, builtin_rules, rules_for
from rldk_tracking.health.rule import Rule, RuleError
from rldk_tracking.messages import packages
from rldk_tracking.messages.packages import Extension

RULES = builtin_rules()


def by_id(rules: list[Rule]) -> dict[str, Rule]:
    return {rule.id: rule for rule in rules}


def test_safe_is_what_is_published() -> None:
    assert by_id(rules_for()) == RULES == by_id(rules_for("safe"))


def test_overrides_reach_fields_and_parameters() -> None:
    rules = by_id(rules_for(overrides={"kl.high": {"threshold": 0.2, "severity": "critical", "persistence": (1, 1)}}))
    changed = rules["kl.high"]
    assert changed.parameters["threshold"] == 0.2
    assert (changed.severity, changed.persistence) == ("critical", (1, 1))
    assert RULES["kl.high"].parameters == {} and RULES["kl.high"].severity == "warning"
    assert rules["kl.spike"] == RULES["kl.spike"]


def test_parameters_that_are_not_overridden_stay() -> None:
    rules = by_id(rules_for(overrides={"length.truncated": {"threshold": 0.9}}))
    assert rules["length.truncated"].parameters == {**RULES["length.truncated"].parameters, "threshold": 0.9}
    rules = by_id(rules_for(overrides={"length.truncated": {"parameters": {"span": 2.0}}}))
    assert rules["length.truncated"].parameters == {**RULES["length.truncated"].parameters, "span": 2.0}


@pytest.mark.parametrize("rule", ["kl.high", "reward.no_signal", "grad.explosion"])
def test_the_limits_that_monitors_take_are_there(rule: str) -> None:
    assert by_id(rules_for(overrides={rule: {"threshold": 0.5}}))[rule].parameters["threshold"] == 0.5


def test_a_rule_can_be_switched_off() -> None:
    assert "kl.high" not in by_id(rules_for(overrides={"kl.high": {"enabled": False}}))
    assert "kl.high" in by_id(rules_for(overrides={"kl.high": {"enabled": True}}))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"kl.hihg": {}}, "rule 'kl.hihg': there is no such rule; did you mean kl.high"),
        (
            {"kl.high": 0.2},
            r"rule 'kl.high': an override is a mapping of its fields, got 0.2: write .\"kl.high\": .\"thr",
        ),
        ([1], r"overrides must be a mapping, got \[1\]: write overrides="),
        ({5: {}}, "the keys of overrides must be strings, got 5"),
        (
            {"kl.high": {"threshold": "0.2"}},
            "rule 'kl.high': threshold must be .* got '0.2', a string: write 0.2 without",
        ),
        ({"kl.high": {"threshold": -1}}, "rule 'kl.high': threshold must be at least 0, as rldk/kl/ref_k1 is, got -1"),
        ({"kl.high": {"threshold": float("nan")}}, "rule 'kl.high': threshold must be a finite number, got nan"),
        ({"kl.high": {"enabled": "no"}}, "rule 'kl.high': enabled must be True or False, got 'no': write False"),
        ({"kl.high": {"enabled": "false"}}, "enabled must be True or False, got 'false': write False"),
        ({"kl.high": {"enabled": 0}}, "enabled must be True or False, got 0: write False"),
        ({"kl.high": {"enabled": None}}, "enabled must be True or False, got None"),
        ({"kl.high": {"parameters": 3}}, "rule 'kl.high': parameters must be a mapping, got 3"),
        ({"kl.high": {"parameters": {"thresold": 3}}}, "has no parameter 'thresold'; did you mean threshold"),
        (
            {"kl.high": {"silences": ["lr.spke"]}},
            "it silences 'lr.spke', and there is no such rule; did you mean lr.spik",
        ),
        ({"kl.high": {3: 3}}, "there is no field 3"),
        ({"kl.high": {"treshold": 1}}, "no field 'treshold'; did you mean threshold"),
        ({"kl.high": {"zzz": 1}}, "no field 'zzz'; there are enabled, threshold"),
        (
            {"kl.high": {"severity": "fatal"}},
            "rule 'kl.high': severity must be 'info', 'warning' or 'critical', got 'fatal'",
        ),
        ({"length.truncated": {"direction": "sideways"}}, 'direction must be "above" or "below", got'),
    ],
)
def test_a_wrong_override_says_what_there_is(overrides, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rules_for(overrides=overrides)


def test_none_stands_for_the_rules_own_value() -> None:
    given = {"length.truncated": {"threshold": None}, "kl.high": {"threshold": None}}
    rules = by_id(rules_for(overrides=given))
    assert rules["length.truncated"] == RULES["length.truncated"]
    assert rules["kl.high"].build({}).threshold is None  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, 'rules must be "safe", .* or a list of Rule, got None: leave it out for "safe"'),
        (5, "got 5"),
        (Rule, "got the class Rule"),
        (RULES["kl.high"], r"got the rule 'kl.high': write rules=\[...\] around it"),
        (["safe"], "rules must hold Rule objects, got 'safe': write Rule"),
        ([Rule], "got the class Rule"),
        ("rules.json", "unknown preset 'rules.json'"),
    ],
)
def test_what_are_no_rules(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rules_for(given)


def test_a_file_may_be_a_path(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("preset: none\nrules: [{id: a.b, when: last('x') > 1}]\n")
    assert [rule.id for rule in rules_for(tmp_path / "mine.yaml")] == ["a.b"]


def written(name: str, text: str) -> Rule:
    return Rule(id=name, keys=("x",), condition="written", parameters={"when": text})


def test_what_all_expressions_together_may_take() -> None:
    assert len(rules_for([written("a.one", 'slope("x", 1000) > 0')])) == 1
    half = [written(f"a.n{n}", 'rising("x", 500) or last("y") > 1') for n in range(5)]
    assert len(rules_for(half[:4])) == 4
    with pytest.raises(RuleError, match=r"rule 'a.n0': its windows take 124,750 of the 623,750 operations a row"):
        rules_for(half)
    ninety = " + ".join(['slope("x", 1000)'] * 90)
    with pytest.raises(RuleError, match="its windows take 44,955,000 of the 44,955,000 operations a row"):
        rules_for([written("a.b", f"{ninety} > 0")])


def test_how_many_rules_there_may_be() -> None:
    many = [RULES["kl.high"].model_copy(update={"id": f"a.n{n}"}) for n in range(MAX_RULES + 1)]
    assert len(rules_for(many[:-1])) == MAX_RULES
    with pytest.raises(RuleError, match="it is one of 501 rules, .* at most 500 can be judged"):
        rules_for(many)


def test_unknown_presets_and_things_that_are_no_rules() -> None:
    with pytest.raises(ValueError, match="unknown preset 'mild'; there are safe, strict, quiet, and paths of .yaml"):
        rules_for("mild")
    with pytest.raises(ValueError, match=r"rules must hold Rule objects, got a dict: write Rule\(\*\*"):
        rules_for([{"id": "x.y"}])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="same id"):
        rules_for([RULES["kl.high"], RULES["kl.high"]])


def test_rules_of_ones_own() -> None:
    mine = Rule(id="mine.high", keys=("x",), condition="level", parameters={"threshold": 1.0})
    assert rules_for([mine]) == [mine]
    assert by_id(rules_for([mine], {"mine.high": {"threshold": 2.0}}))["mine.high"].parameters["threshold"] == 2.0


def test_strict_is_sooner_than_safe_and_quiet_is_later(healthy) -> None:
    delays = {}
    for preset in PRESETS:
        engine = Engine(rules_for(preset))
        for step, row in enumerate(healthy(0, 200)):
            cut = {"rldk/length/truncated_fraction": 0.9} if step >= 100 else {}
            fired = [a for a in engine.update(step, row | cut) if a.rule == "length.truncated"]
            if fired:
                delays.setdefault(preset, step - 100)
    assert delays["strict"] < delays["safe"] < delays["quiet"] < 40


@pytest.mark.parametrize("preset", PRESETS)
def test_no_preset_delays_what_is_critical(preset: str) -> None:
    engine = Engine(rules_for(preset))
    assert [alert.rule for alert in engine.update(0, {"rldk/nan/weights": 1.0})] == ["nan.weights"]


def test_the_built_in_rules_are_not_read_before_they_are_needed() -> None:
    code = (
        "import sys, rldk_tracking, rldk_tracking.health.presets as presets\n"
        "print(presets.builtin_rules.cache_info().currsize)\n"
        "presets.rules_for(); print(presets.builtin_rules.cache_info().currsize)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split() == ["0", "1"]


def test_rules_of_other_packages_come_to_the_presets_and_bad_ones_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(
        "rules:\n  - {id: team.slow, keys: [rldk/reward/mean], condition: level, "
        "parameters: {threshold: 1}, message: slow}\n"
    )
    quick = Rule(
        id="team.quick", keys=["rldk/reward/mean"], condition="level", parameters={"threshold": 1}, message="quick"
    )
    given: dict[str, Any] = {"a": file, "b": lambda: [quick], "c": [quick], "d": [5], "e": tmp_path / "none.yaml"}
    found = tuple(Extension(name, f"package-{name}", value) for name, value in given.items())
    monkeypatch.setattr(presets, "extensions", lambda group: found if group == packages.RULES else ())
    presets.rules_of_packages.cache_clear()
    try:
        for preset in presets.PRESETS:
            assert [rule.id for rule in rules_for(preset)][-2:] == ["team.slow", "team.quick"]
        assert [rule.id for rule in rules_for([quick])] == ["team.quick"], "a list is exactly that list"
    finally:
        presets.rules_of_packages.cache_clear()
    assert [message.partition("package-")[2][0] for message in caplog.messages] == ["c", "d", "e"]
