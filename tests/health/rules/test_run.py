"""The rules about whether the training goes on, on rows as the watchdog makes them."""

from __future__ import annotations

import pytest

from rldk_tracking.health.engine import Engine
from rldk_tracking.health.presets import builtin_rules, rules_for

RULES = builtin_rules()

GONE, SILENT, LIMIT = "rldk/run/gone", "rldk/run/silent_seconds", "rldk/run/limit_seconds"
GOES_ON = {GONE: 0.0, SILENT: 0.5, LIMIT: 120.0}


def judged(rows: list[dict[str, float]], rules=(RULES["run.crashed"], RULES["run.hung"])) -> list[tuple[str, str, str]]:
    engine = Engine(rules)
    return [
        (alert.rule, alert.severity, alert.state) for step, row in enumerate(rows) for alert in engine.update(step, row)
    ]


def test_a_training_that_goes_on_is_neither() -> None:
    assert judged([GOES_ON, {**GOES_ON, SILENT: 119.0}, {SILENT: 1e6}, {}] * 5) == []


def test_a_crash_is_critical_and_over_when_steps_come() -> None:
    rows = [GOES_ON, {GONE: 1.0}, {GONE: 1.0}, {}, GOES_ON]
    assert judged(rows) == [("run.crashed", "critical", "firing"), ("run.crashed", "critical", "resolved")]


def test_a_hang_becomes_critical_and_is_over_when_steps_come() -> None:
    hangs = [{GONE: 0.0, SILENT: silent, LIMIT: 120.0} for silent in (100.0, 121.0, 200.0, 241.0, 300.0)]
    assert judged([GOES_ON, *hangs, GOES_ON]) == [
        ("run.hung", "warning", "firing"),
        ("run.hung", "critical", "firing"),
        ("run.hung", "critical", "resolved"),
    ]


def test_a_crash_holds_a_hang_back() -> None:
    assert judged([{GONE: 1.0, SILENT: 500.0, LIMIT: 120.0}]) == [("run.crashed", "critical", "firing")]


@pytest.mark.parametrize(("preset", "factor"), [("strict", 0.5), ("safe", 1.0), ("quiet", 2.0)])
def test_presets_move_the_limits(preset: str, factor: float) -> None:
    (hung,) = [rule for rule in rules_for(preset) if rule.id == "run.hung"]
    built_in = RULES["run.hung"].parameters
    for name in ("threshold", "times", "first"):
        assert hung.parameters[name] == factor * built_in[name]
    assert (hung.parameters["critical"], hung.parameters["stacks"]) == (2.0, True)
    assert built_in["threshold"] == 120.0


def test_every_rule_has_a_case() -> None:
    families = ("run",)
    assert {name for name, rule in RULES.items() if rule.family in families} == {"run.crashed", "run.hung"}
