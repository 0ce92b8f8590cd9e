"""Presets and overrides."""

from __future__ import annotations

import pytest

from rldk_tracking.health.catalogue import RULES
from rldk_tracking.health.engine import Engine
from rldk_tracking.health.presets import PRESETS, rules_for
from rldk_tracking.health.rules import Rule


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
        ({"kl.hihg": {}}, "no rule 'kl.hihg'; did you mean kl.high"),
        ({"kl.high": {"treshold": 1}}, "no field 'treshold'; did you mean threshold"),
        ({"kl.high": {"zzz": 1}}, "no field 'zzz'; there are enabled, threshold"),
        ({"kl.high": {"severity": "fatal"}}, "override of 'kl.high'.*'info', 'warning' or 'critical'"),
        ({"length.truncated": {"direction": "sideways"}}, "direction must be one of"),
    ],
)
def test_a_wrong_override_says_what_there_is(overrides, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rules_for(overrides=overrides)


def test_unknown_presets_and_things_that_are_no_rules() -> None:
    with pytest.raises(ValueError, match="unknown preset 'mild'; there are safe, strict, quiet, and paths of .yaml"):
        rules_for("mild")
    with pytest.raises(ValueError, match="got dict"):
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
