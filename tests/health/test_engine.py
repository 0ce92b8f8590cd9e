"""The engine over rows: transitions, silence, unknown, and state."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable

import pytest

from rldk_tracking.health import engine as engines
from rldk_tracking.health.engine import Engine
from rldk_tracking.health.presets import rules_for
from rldk_tracking.health.rule import Rule


def level(**fields: object) -> Rule:
    given = {"id": "user.high", "keys": ("x",), "condition": "level", "parameters": {"threshold": 1.0, "clear": 0.5}}
    return Rule(**{**given, "clear_after": 2, **fields})


def transitions(engine: Engine, values: list[float], key: str = "x", start: int = 0) -> list[tuple[str, str, int]]:
    return [
        (alert.state, alert.severity, alert.step)
        for step, value in enumerate(values, start)
        for alert in engine.update(step, {key: value})
    ]


def test_an_alert_fires_once_and_resolves_past_the_clear_level() -> None:
    engine = Engine([level()])
    assert transitions(engine, [0, 2, 3, 2, 0.8, 0.8, 0.8, 0.4, 0.4, 0.4]) == [
        ("firing", "warning", 1),
        ("resolved", "warning", 8),
    ]


def test_first_step_is_that_of_the_first_breach_not_of_the_belief() -> None:
    engine = Engine([level(persistence=(3, 4))])
    alerts = [a for step, v in enumerate([0, 2, 0.4, 2, 2, 2]) for a in engine.update(step, {"x": v})]
    assert [(alert.step, alert.first_step) for alert in alerts] == [(4, 1)]


def test_warm_up_counts_steps_and_samples() -> None:
    engine = Engine([level(warm_up_steps=10, warm_up_samples=2)])
    assert [s for s in (0, 20, 40, 60) if engine.update(s, {"x": 2.0})] == [40]
    engine = Engine([level(warm_up_steps=10, warm_up_samples=2)])
    assert [s for s in range(20) if engine.update(s, {"x": 2.0})] == [10]


def test_cooldown_mutes_a_repeat_but_not_an_escalation() -> None:
    rule = level(cooldown_steps=100, parameters={"threshold": 1.0, "critical": 5.0})
    assert transitions(Engine([rule]), [2, 0, 0, 2, 2, 9]) == [
        ("firing", "warning", 0),
        ("resolved", "warning", 2),
        ("firing", "critical", 5),
    ]


def test_a_warning_that_lasts_becomes_critical_once() -> None:
    engine = Engine([level(critical_after=3)])
    assert transitions(engine, [2.0] * 8) == [("firing", "warning", 0), ("firing", "critical", 3)]


def test_nan_silences_its_consequences_until_it_ends() -> None:
    engine = Engine(rules_for(overrides={"kl.high": {"threshold": 0.1, "persistence": (1, 1)}}))
    row = {"rldk/nan/weights": 0.0, "rldk/kl/ref_k3": 0.01}
    engine.update(0, row)
    broken = {"rldk/nan/weights": 3.0, "rldk/nan/gradients": 5.0, "rldk/kl/ref_k3": 9.0}
    assert [a.rule for step in (1, 2, 3) for a in engine.update(step, broken)] == ["nan.weights"]
    later = [a for step in range(4, 10) for a in engine.update(step, {**row, "rldk/kl/ref_k3": 9.0})]
    assert [(a.rule, a.state) for a in later] == [("nan.weights", "resolved"), ("kl.high", "firing")]


def test_a_rule_without_data_is_unknown_not_fine() -> None:
    engine = Engine(rules_for())
    for step in range(30):
        engine.update(step, {"rldk/reward/mean": 0.1 * step})
    unknown = engine.unknown()
    assert "kl.high" in unknown and "nan.weights" in unknown and "reward.hacking" in unknown
    assert "reward.collapse" not in unknown
    assert "rldk/health/kl" not in engine.scores()


def test_no_data_gives_no_score() -> None:
    engine = Engine(rules_for())
    engine.update(0, {"loss": 1.0})
    assert engine.scores() == {}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_taken_for_missing(bad: float) -> None:
    engine = Engine([level()])
    assert engine.update(0, {"x": bad}) == []
    assert engine.unknown() == ["user.high"]


def test_steps_may_go_backwards() -> None:
    engine = Engine([level(persistence=(2, 2))])
    assert [a.step for step in (100, 101, 50, 51) for a in engine.update(step, {"x": 2.0})] == [101]


def test_state_goes_through_json_at_any_point() -> None:
    values = [0, 2, 2, 0.8, 0.2, 0.2, 2, 2, 2, 9, 9, 0, 0, 0, 2, 2]
    rule = level(persistence=(2, 3), cooldown_steps=3, critical_after=4)
    whole = transitions(Engine([rule]), values)
    for cut in range(len(values)):
        first, second = Engine([rule]), Engine([rule])
        before = transitions(first, values[:cut])
        second.load_state(json.loads(json.dumps(first.state(), allow_nan=False)))
        assert before + transitions(second, values[cut:], start=cut) == whole


def test_advice_quotes_the_settings_of_the_run() -> None:
    engine = Engine(rules_for(), context={"learning_rate": 3e-4, "max_grad_norm": 1.0})
    (alert,) = engine.update(5, {"rldk/nan/weights": 1.0})
    assert alert.advice.startswith("(configured: learning_rate 0.0003, max_grad_norm 1)")
    assert alert.severity == "critical" and alert.first_step == 5


def test_state_of_another_version_is_refused() -> None:
    with pytest.raises(ValueError, match="version 99"):
        Engine([level()]).load_state({"version": 99})


def test_memory_does_not_grow_with_the_run(healthy) -> None:
    engine = Engine(rules_for())
    sizes = []
    for step, row in enumerate(healthy(0, 6000)):
        engine.update(step, row)
        if step in (999, 5999):
            sizes.append(len(json.dumps(engine.state())))
    assert sizes[1] < 1.1 * sizes[0]


def caused(**fields: object) -> list[Rule]:
    """A rule on `cause` that silences, and one on `x`."""
    cause = {"id": "nan.mine", "keys": ("cause",), "condition": "level", "parameters": {"threshold": 1.0}}
    return [level(critical_after=2), Rule(**{**cause, "silences": ("user.*",), **fields})]


@pytest.mark.parametrize("pattern", ["*", "user.*", "user.high"])
def test_a_consequence_is_noted_with_its_cause(pattern: str) -> None:
    engine = Engine(caused(silences=(pattern,)))
    assert [a.rule for a in engine.update(0, {"cause": 2.0, "x": 2.0})] == ["nan.mine"]
    assert engine.held_back == {"user.high": "nan.mine"}
    again = Engine(caused(silences=(pattern,)))
    again.load_state(json.loads(json.dumps(engine.state())))
    assert again.held_back == engine.held_back


def test_another_family_is_no_consequence() -> None:
    engine = Engine(caused(silences=("kl.*", "user.other")))
    assert {a.rule for a in engine.update(0, {"cause": 2.0, "x": 2.0})} == {"nan.mine", "user.high"}
    assert engine.held_back == {}


def test_an_alert_that_was_there_before_its_cause_is_not_held_back() -> None:
    engine = Engine(caused())
    rows = [{"x": 2.0, "cause": 0.0}, {"x": 2.0, "cause": 2.0}, {"x": 2.0, "cause": 2.0}]
    found = [(a.rule, a.severity) for step, row in enumerate(rows) for a in engine.update(step, row)]
    assert found == [("user.high", "warning"), ("nan.mine", "warning")], "it does not become critical either"
    assert engine.held_back == {}


def test_a_rule_is_not_its_own_consequence() -> None:
    engine = Engine([level(silences=("user.*",), critical_after=2)])
    assert transitions(engine, [2.0] * 4) == [("firing", "warning", 0), ("firing", "critical", 2)]


def test_the_most_severe_stands_first() -> None:
    rules = [level(id=f"user.{name}", severity=name) for name in ("info", "critical", "warning")]
    engine = Engine(rules)
    engine.update(0, {"x": 2.0})
    assert [alert.severity for alert in engine.firing] == ["critical", "warning", "info"]


def test_runs_are_ordered_by_severity_first() -> None:
    def scored(rules: list[Rule]) -> float:
        engine = Engine(rules)
        engine.update(0, {"x": 2.0})
        return engine.scores()["rldk/health/score"]

    warnings = [level(id=f"{family}.high") for family in ("kl", "reward", "length", "entropy")]
    assert scored(warnings[:1]) > scored(warnings) > scored([level(id="nan.reward", severity="critical")])


def test_a_state_of_other_rules_leaves_these_fresh() -> None:
    old, new = Engine([level(id="user.gone"), level()]), Engine([level(), level(id="user.new")])
    old.update(0, {"x": 2.0})
    new.load_state(old.state())
    assert [alert.rule for alert in new.firing] == ["user.high"]
    assert [alert.rule for alert in new.update(1, {"x": 2.0})] == ["user.new"]


def test_the_scores_go_on_from_a_state(healthy) -> None:
    rows = healthy(0, 100)
    whole, first, second = Engine(rules_for()), Engine(rules_for()), Engine(rules_for())
    for step, row in enumerate(rows):
        whole.update(step, row)
    for step, row in enumerate(rows[:60]):
        first.update(step, row)
    second.load_state(json.loads(json.dumps(first.state(), allow_nan=False)))
    for step, row in enumerate(rows[60:], 60):
        second.update(step, row)
    assert second.scores() == whole.scores()
    assert second.convergence == whole.convergence is not None


def test_consequences_are_named_in_the_alert_as_they_come() -> None:
    engine = Engine([*caused(), level(id="user.late")])
    (first,) = engine.update(0, {"cause": 2.0, "x": 2.0})
    assert first.consequences == ("user.high", "user.late") and first.notify, "in the same row, in one alert"
    assert first.message.endswith("With it: user.high, user.late.")
    assert engine.update(1, {"cause": 2.0, "x": 2.0}) == []
    engine = Engine([*caused(), level(id="user.late", keys=("y",))])
    engine.update(0, {"cause": 2.0, "x": 2.0})
    (more,) = engine.update(5, {"cause": 2.0, "x": 2.0, "y": 2.0})
    assert (more.rule, more.state, more.step, more.notify) == ("nan.mine", "firing", 0, False)
    assert more.consequences == ("user.high", "user.late")
    assert [alert.consequences for alert in engine.firing] == [("user.high", "user.late")]
    over = [alert for step in range(6, 12) for alert in engine.update(step, {"cause": 0.0, "x": 0.0, "y": 0.0})]
    assert [(alert.state, alert.consequences) for alert in over] == [("resolved", ("user.high", "user.late"))]


def test_what_is_held_back_has_the_severity_of_its_cause() -> None:
    engine = Engine(caused(severity="critical"))
    engine.update(0, {"cause": 0.0, "x": 0.0})
    assert engine.scores()["rldk/health/user"] == 1.0
    engine.update(1, {"cause": 2.0, "x": 2.0})
    assert engine.scores()["rldk/health/user"] == 0.1
    again = Engine(caused(severity="critical"))
    again.load_state(json.loads(json.dumps(engine.state())))
    assert again.scores() == engine.scores()
    for step in (2, 3):
        engine.update(step, {"cause": 2.0, "x": 0.0})
    assert engine.scores()["rldk/health/user"] == 1.0, "its own condition is clear"
    engine.update(4, {"cause": 2.0, "x": 2.0})
    fired = [alert for step in range(5, 9) for alert in engine.update(step, {"cause": 0.0, "x": 2.0})]
    assert [(alert.rule, alert.state) for alert in fired] == [("nan.mine", "resolved"), ("user.high", "firing")]
    assert engine.scores()["rldk/health/user"] == 0.5, "its cause is over, so it stands for itself"


@pytest.fixture
def mixed(healthy: Callable[..., list[dict[str, float]]]) -> list[tuple[int, dict[str, float]]]:
    """Rows of two kinds, healthy and then at fault, with values that are none and holes."""
    draw = random.Random(0)
    rows: list[tuple[int, dict[str, float]]] = []
    for step, row in enumerate([*healthy(1, 140), *healthy(2, 60)]):
        row = {key: value for key, value in row.items() if draw.random() > 0.02}
        if step > 150:
            row |= {"rldk/grad/norm": 900.0, "rldk/kl/ref_k1": 20.0, "rldk/nan/weights": float(step > 170)}
        rows.append((step, row if step % 9 else {"rldk/eval/reward": 0.5, "rldk/train/loss": math.nan}))
    return rows


@pytest.mark.parametrize("preset", ["safe", "strict"])
def test_many_rows_are_judged_as_row_by_row(
    preset: str, mixed: list[tuple[int, dict[str, float]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "BLOCK_ROWS", 23)
    when = 'last("rldk/health/spike_free_fraction") < 0.9 and last("rldk/grad/norm") > 1'
    both = Rule(id="user.both", keys=["rldk/grad/norm"], condition="written", parameters={"when": when})
    one, other = (Engine([*rules_for(preset), both], strict=True) for _ in range(2))
    changes = [one.update(step, row) for step, row in mixed]
    assert other.judge(mixed) == changes
    assert {"grad.explosion", "user.both"} <= {alert.rule for found in changes for alert in found}
    assert (other.state(), other.scores(), other.firing) == (one.state(), one.scores(), one.firing)


def test_a_row_without_what_a_rule_reads_changes_nothing_of_it(mixed: list[tuple[int, dict[str, float]]]) -> None:
    rules = rules_for("safe")
    conditions = [condition for rule in rules if not (condition := rule.build({})).reads_others]
    assert len(conditions) > 40
    draw = random.Random(3)
    for step, row in mixed:
        for condition in conditions:
            condition.judge(step, row)
            before = condition.state()
            others = {key: draw.random() for key in {*row, "rldk/reward/std"} - {*condition.reads()}}
            assert condition.judge(step, others) is None and condition.state() == before, condition.keys
