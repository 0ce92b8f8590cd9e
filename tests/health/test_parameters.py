"""What the parameters of a condition may be, and the words of those that may not."""

from __future__ import annotations

from typing import Any

import pytest

from rldk_tracking.health.conditions import CONDITIONS
from rldk_tracking.health.parameters import ParameterError, check_parameters, parameters_of
from rldk_tracking.health.presets import builtin_rules
from rldk_tracking.health.rule import Rule, RuleError

RULES = builtin_rules()

LENGTH = ("rldk/length/mean",)


def check(condition: str, parameters: dict[str, Any], keys: tuple[str, ...] = LENGTH) -> None:
    check_parameters(condition, parameters, keys, ())


@pytest.mark.parametrize(
    ("condition", "parameters", "message"),
    [
        (
            "level",
            {"threshold": "0.2"},
            "threshold must be a finite number, got '0.2', a string: write 0.2 without quotation marks, "
            "or convert it with float().",
        ),
        (
            "level",
            {"threshold": "1e-1"},
            "threshold must be a finite number, got '1e-1', a string: write 0.1 "
            "(YAML reads an exponent without a point as a string).",
        ),
        ("level", {"threshold": "abc"}, "threshold must be a finite number, got 'abc'."),
        ("level", {"threshold": True}, "threshold must be a finite number, got True."),
        ("level", {"threshold": None}, "threshold must be a finite number, got None."),
        ("level", {"threshold": float("nan")}, "threshold must be a finite number, got nan."),
        ("level", {"threshold": float("inf")}, "threshold must be a finite number, got inf."),
        ("level", {"threshold": [1.0]}, "threshold must be a finite number, got [1.0]."),
        ("level", {"threshold": -1.0}, "threshold must be at least 0, as rldk/length/mean is, got -1.0."),
        ("level", {"threshold": 1.0, "span": 0.5}, "span must be a number of at least 1, got 0.5."),
        (
            "level",
            {"threshold": 1.0, "zero_is_missing": "no"},
            "zero_is_missing must be True or False, got 'no': write False.",
        ),
        (
            "level",
            {"threshold": 1.0, "direction": "abve"},
            'direction must be "above" or "below", got \'abve\'; did you',
        ),
        ("level", {"threshold": 1.0, "direction": 1}, 'direction must be "above" or "below", got 1.'),
        ("level", {"threshold": 1.0, "only_below": 3}, "only_below must be a mapping, got 3: write "),
        ("level", {"threshold": 1.0, "only_below": {"x": "1"}}, "only_below['x'] must be a finite number, got '1', a"),
        ("level", {"treshold": 1.0}, "condition 'level' has no parameter 'treshold'; did you mean threshold?"),
        ("level", {}, "condition 'level' needs threshold: write parameters={'threshold': ...}."),
        ("jump", {"minimum": 2.5}, "minimum must be a whole number of at least 1, got 2.5."),
        ("jump", {"minimum": 0}, "minimum must be a whole number of at least 1, got 0."),
        ("jump", {"minimum": 60}, "minimum must be at most window, which is 48, or nothing is ever judged, got 60."),
        ("jump", {"z": -1}, "z must be a number of at least 0, got -1."),
        ("jump", {"z": 10**400}, "z must be a number of at least 0, got 1000"),
        ("hacking", {"held_out": "rldk/reward/gold"}, "held_out must be a list of strings, got 'rldk/reward/gold'."),
        ("below_zero", {"error_key": 3}, "error_key must be a string, got 3"),
        ("ties", {"solved": 0}, "solved must be True or False, got 0: write False."),
    ],
)
def test_what_cannot_be(condition: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError) as refused:
        check(condition, parameters)
    assert str(refused.value).startswith(message)
    assert refused.value.parameter in {*parameters, "threshold"}


def test_a_share_is_not_per_cent() -> None:
    check("level", {"threshold": 0.4}, ("rldk/length/truncated_fraction",))
    with pytest.raises(ParameterError, match="at most 1, as rldk/length/truncated_fraction is, got 40"):
        check("level", {"threshold": 40}, ("rldk/length/truncated_fraction",))


def test_limits_of_a_divergence() -> None:
    """A batch's estimate may be below 0, and a rule may watch for that; the divergence itself is not."""
    kl = ("rldk/kl/ref_k1",)
    check("level", {"threshold": -0.1, "direction": "below"}, kl)
    check("level", {"threshold": -3.0}, ("rldk/reward/mean",))
    check("level", {"threshold": -3.0}, ("rldk/mine/own",))
    for condition in ("level", "unpaid_drift", "jump"):
        with pytest.raises(ParameterError, match=r"threshold must be at least 0, as rldk/kl/ref_k1 is, got -1"):
            check(condition, {"threshold": -1}, kl)


def test_none_is_the_default_where_there_is_one() -> None:
    check("jump", {"threshold": None, "ratio": None})
    assert parameters_of("jump")["threshold"].takes_none and not parameters_of("level")["threshold"].takes_none


def test_every_built_in_rule_passes_and_every_parameter_has_a_meaning() -> None:
    for rule in RULES.values():
        check_parameters(rule.condition, rule.parameters, rule.keys, tuple(rule.settings))
    assert [(c, name) for c in CONDITIONS for name, known in parameters_of(c).items() if not known.meaning] == []


def test_every_default_is_in_its_range() -> None:
    ranges = 0
    for condition in CONDITIONS:
        for name, known in parameters_of(condition).items():
            low, high = known.range.low, known.range.high
            if isinstance(known.default, (int, float)) and not isinstance(known.default, bool):
                assert low is None or known.default >= low, (condition, name)
                assert high is None or known.default <= high, (condition, name)
                ranges += low is not None
    assert ranges > 70


def test_a_setting_of_the_run_gives_a_parameter_that_there_is() -> None:
    with pytest.raises(RuleError, match="has no parameter 'clea'; did you mean clear"):
        Rule(id="a.b", keys=LENGTH, condition="level", parameters={"threshold": 1.0}, settings={"clea": "beta"})
