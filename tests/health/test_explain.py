"""A page for every rule."""

from __future__ import annotations

import pytest

from rldk_tracking.health.explain import WIDTH, explain, summary
from rldk_tracking.health.parameters import parameters_of
from rldk_tracking.health.presets import builtin_rules, rules_for
from rldk_tracking.health.rule import Rule

RULES = builtin_rules()


@pytest.mark.parametrize("name", RULES)
def test_every_rule_has_a_page(name: str) -> None:
    text = explain(name)
    assert text.startswith(f"{name} ({RULES[name].severity})\n")
    for heading in ("Fires when", "Likely causes", "Try first", "Where the limit comes from", "Change it"):
        assert f"\n{heading}\n" in text
    assert all(key in text.replace("\n  ", " ") for key in RULES[name].keys)
    assert max(len(line) for line in text.splitlines()) <= WIDTH or "overrides=" in text


def test_who_silences_whom_is_said() -> None:
    assert "Held back by: nan.weights, nan.gradients" in explain("kl.high").replace("\n  ", " ")
    assert "reward.no_signal" in explain("reward.collapse")


def test_overrides_are_shown() -> None:
    assert "0.123" in explain("kl.high", rules_for(overrides={"kl.high": {"threshold": 0.123}}))
    assert "0.123" not in explain("kl.high")


def test_a_users_rule_has_what_it_says_itself() -> None:
    mine = Rule(id="mine.high", keys=("x",), condition="level", parameters={"threshold": 1.0}, advice="Lower it.")
    text = explain("mine.high", [mine])
    assert "Lower it." in text and "threshold = 1.0: the limit" in text


def test_a_misspelt_rule_names_the_nearest() -> None:
    with pytest.raises(KeyError, match="kl.high"):
        explain("kl.hihg")


def test_the_summary_is_the_first_sentence() -> None:
    assert summary(RULES["reward.collapse"]) == "What had been learned is lost."
    assert "(Gao et al. 2022, arXiv" in summary(RULES["kl.high"])
    for rule in RULES.values():
        assert summary(rule).count(". ") <= summary(rule).count("al. ") and summary(rule).endswith(".")
    assert summary(Rule(id="mine.high", keys=("x",), condition="level", parameters={"threshold": 1.0})) == ""


def test_parameters_are_shown_with_their_values() -> None:
    text = explain("policy.clip_fraction")
    assert "\n  - threshold = 0.3: the limit; the value itself is still good\n" in text
    assert "\n  - clear = 0.2: where the breach ends" in text and "\n  - span = 1.0: observations of" in text
    assert "ceiling = None, or the run's max_score: the highest reward" in explain("reward.saturated")


def test_every_parameter_is_on_the_page() -> None:
    for name, rule in RULES.items():
        text = " ".join(explain(name).split())
        for parameter, known in parameters_of(rule.condition).items():
            assert f"- {parameter} = " in text and known.meaning.replace("`", "") in text, (name, parameter)


def test_the_alert_about_rules_that_failed_has_a_page() -> None:
    assert "switched off for the rest of the run" in explain("health.rule_failed")
