"""One rule over a run beside a plain reference, and the engine over rows: transitions, silence, unknown, state."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rldk_tracking.health.alert import Alert
from rldk_tracking.health.engine import Engine, Watch, advice
from rldk_tracking.health.presets import rules_for
from rldk_tracking.health.rules import Rule

PLAIN = {"id": "mine.high", "keys": ("x",), "condition": "level", "parameters": {"threshold": 1.0, "clear": 0.5}}


def run(watch: Watch, values: list[float], start: int = 0) -> list[tuple[int, str, str]]:
    changes = []
    for step, value in enumerate(values, start):
        watch.look(step, {"x": value})
        was = watch.firing()
        if watch.wants_to_resolve() and was is not None:
            changes.append(watch.resolve(step, was))
        severity = watch.wants_to_fire(step)
        if severity is not None and watch.finding is not None:
            changes.append(watch.fire(step, severity, watch.finding))
    return [(change.step, change.state, change.severity) for change in changes]


def plain(values: list[float], k: int, n: int, clear_after: int, cooldown: int) -> list[tuple[int, str, str]]:
    """The same in the plainest words, over the whole history at every step."""
    changes, firing, began, ended = [], False, 0, None
    for step in range(len(values)):
        recent = [value > 1.0 for value in values[max(began, step - n + 1) : step + 1]]
        clear = [value <= 0.5 for value in values[max(0, step - clear_after + 1) : step + 1]]
        if firing and len(clear) == clear_after and all(clear):
            firing, ended, began = False, step, step + 1
            changes.append((step, "resolved", "warning"))
        elif not firing and values[step] > 1.0 and sum(recent) >= k and (ended is None or step - ended >= cooldown):
            firing = True
            changes.append((step, "firing", "warning"))
    return changes


VALUES = st.lists(st.sampled_from([0.0, 0.7, 2.0]), max_size=60)


@given(VALUES, st.integers(1, 4), st.integers(0, 3), st.integers(1, 4), st.integers(0, 10))
def test_it_does_what_it_says(values: list[float], k: int, more: int, clear_after: int, cooldown: int) -> None:
    fields = {"persistence": (k, k + more), "clear_after": clear_after, "cooldown_steps": cooldown}
    watch = Watch(Rule(**PLAIN, **fields), {})
    assert run(watch, values) == plain(values, k, k + more, clear_after, cooldown)


@given(VALUES, st.integers(0, 60))
def test_state_goes_through_json_anywhere(values: list[float], cut: int) -> None:
    rule = Rule(**PLAIN, persistence=(2, 3), clear_after=2, cooldown_steps=5, critical_after=4)
    first, second = Watch(rule, {}), Watch(rule, {})
    before = run(first, values[:cut])
    second.load_state(json.loads(json.dumps(first.state(), allow_nan=False)))
    assert before + run(second, values[cut:], start=min(cut, len(values))) == run(Watch(rule, {}), values)


def test_the_sentence_has_the_numbers_in_it() -> None:
    watch = Watch(
        Rule(**PLAIN, message="{key} is {value:.1f}, over {threshold:.1f}, since {first_step}; {odd:.2f}."), {}
    )
    watch.look(4, {"x": 2.0})
    alert = watch.fire(4, "warning", watch.finding)
    assert alert.message == "x is 2.0, over 1.0, since 4; unknown."
    assert isinstance(watch.firing(), Alert) and watch.firing() == alert


def test_the_end_names_what_it_was_and_how_long() -> None:
    watch = Watch(Rule(**PLAIN, clear_after=1, message="{value:.0f} is high."), {})
    watch.look(3, {"x": 2.0})
    was = watch.fire(3, "warning", watch.finding)
    watch.look(9, {"x": 0.0})
    end = watch.resolve(9, was)
    assert end.message == "Over after 6 steps. It was: 2 is high."
    assert (end.state, end.first_step, end.value) == ("resolved", 3, 0.0)


def test_advice_quotes_what_is_known_and_nothing_else() -> None:
    rule = Rule(**PLAIN, advice="Lower it.", quotes=("learning_rate", "beta", "name"))
    assert advice(rule, {}) == "Lower it."
    assert advice(rule, {"learning_rate": 3e-4, "name": "a" * 500, "token": "secret"}).startswith(
        "(learning_rate 0.0003, name aaa"
    )
    assert "secret" not in advice(rule, {"token": "secret"}) and len(advice(rule, {"name": "a" * 500})) < 120


def test_rows_without_the_data_change_nothing() -> None:
    watch = Watch(Rule(**PLAIN, clear_after=1), {})
    watch.look(0, {"y": 5.0})
    assert not watch.known and watch.finding is None and watch.wants_to_fire(0) is None


RULED = {"persistence": (1, 1), "clear_after": 1, "parameters": {"threshold": 1.0, "clear": 0.5, "critical": 5.0}}


def ruled(**fields: object) -> Watch:
    return Watch(Rule(**{**PLAIN, **RULED, **fields}), {})


def test_the_cooldown_mutes_a_repeat_but_not_something_worse() -> None:
    assert run(ruled(cooldown_steps=10), [2.0, 0.0, 2.0, 9.0, 0.0, 9.0]) == [
        (0, "firing", "warning"),
        (1, "resolved", "warning"),
        (3, "firing", "critical"),
        (4, "resolved", "critical"),
    ]


def test_the_cooldown_is_over_when_it_says() -> None:
    values = [2.0, 0.0, *[2.0] * 20]
    assert [step for step, state, _ in run(ruled(cooldown_steps=10), values) if state == "firing"] == [0, 11]


def test_a_cooldown_that_lies_ahead_mutes_nothing() -> None:
    watch = ruled(cooldown_steps=10)
    run(watch, [0.0])
    run(watch, [2.0, 0.0], start=100)
    assert run(watch, [2.0], start=50) == [(50, "firing", "warning")], "the run went back to an earlier checkpoint"


def test_the_onset_is_the_first_breach_among_the_recent_rows() -> None:
    watch = ruled(persistence=(3, 4))
    run(watch, [0.0, 2.0, 0.0, 2.0, 2.0])
    assert watch.firing().first_step == 1
    watch = ruled(persistence=(2, 2))
    run(watch, [2.0, 0.0, 0.0, 2.0, 2.0])
    assert watch.firing().first_step == 3, "a breach that is forgotten is no beginning"


def test_what_was_breached_before_an_end_counts_no_more() -> None:
    assert run(ruled(persistence=(2, 4)), [2.0, 2.0, 0.0, 2.0, 0.0, 2.0]) == [
        (1, "firing", "warning"),
        (2, "resolved", "warning"),
        (5, "firing", "warning"),
    ]


def test_warm_up_samples_are_not_judged() -> None:
    assert run(ruled(warm_up_samples=3), [2.0] * 4) == [(3, "firing", "warning")]


def test_critical_needs_as_many_rows_as_the_rule_itself() -> None:
    assert run(ruled(persistence=(2, 3)), [2.0, 9.0, 2.0, 9.0]) == [
        (1, "firing", "warning"),
        (3, "firing", "critical"),
    ]


def test_what_lasts_is_critical_after_exactly_so_many_steps() -> None:
    assert run(ruled(critical_after=3), [2.0] * 6) == [(0, "firing", "warning"), (3, "firing", "critical")]


def test_a_run_that_goes_back_has_no_alert_from_its_future() -> None:
    watch = ruled(persistence=(2, 2))
    watch.look(0, {"x": 0.0})
    watch.look(100, {"x": 2.0})
    watch.look(50, {"x": 2.0})
    alert = watch.fire(50, "warning", watch.finding)
    assert (alert.first_step, alert.step) == (50, 50)
    watch.look(20, {"x": 0.0})
    assert watch.resolve(20, alert).message.startswith("Over after 0 steps.")


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
    assert alert.advice.startswith("(learning_rate 0.0003, max_grad_norm 1)")
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
