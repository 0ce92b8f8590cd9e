"""One rule over a run beside a plain reference: warm-up, persistence, cooldown, escalation, sentence, state."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rldk_tracking.health.alert import Alert
from rldk_tracking.health.rule import Rule
from rldk_tracking.health.watch import Watch, advice

PLAIN = {"id": "mine.high", "keys": ("x",), "condition": "level", "parameters": {"threshold": 1.0, "clear": 0.5}}


def transitions(watch: Watch, values: dict[int, float]) -> list[Alert]:
    changes = []
    for step, value in values.items():
        watch.look(step, {"x": value})
        was = watch.firing()
        if watch.wants_to_resolve() and was is not None:
            changes.append(watch.resolve(step, was))
        severity = watch.wants_to_fire(step)
        if severity is not None and watch.finding is not None:
            changes.append(watch.fire(step, severity, watch.finding))
    return changes


def run(watch: Watch, values: list[float], start: int = 0) -> list[tuple[int, str, str]]:
    changes = transitions(watch, dict(enumerate(values, start)))
    return [(change.step, change.state, change.severity) for change in changes]


def plain(values: list[float], k: int, n: int, clear_after: int, cooldown: int) -> list[tuple[int, str, str]]:
    """The same in the plainest words, over the whole history at every step."""
    changes, firing, began, ended, times = [], False, 0, None, 0
    for step in range(len(values)):
        recent = [value > 1.0 for value in values[max(began, step - n + 1) : step + 1]]
        needed = clear_after * 2 ** max(0, times - 1)
        clear = [value <= 0.5 for value in values[max(0, step - needed + 1) : step + 1]]
        if firing and len(clear) == needed and all(clear):
            firing, ended, began = False, step, step + 1
            changes.append((step, "resolved", "warning"))
        elif not firing and values[step] > 1.0 and sum(recent) >= k and (ended is None or step - ended >= cooldown):
            firing, times = True, times + 1
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
    again = " Should it come back, that is counted, and told only where it is worse."
    assert end.message == f"Over after 6 steps.{again} It was: 2 is high."
    assert (end.state, end.first_step, end.value) == ("resolved", 3, 0.0)


def test_advice_quotes_what_is_known_and_nothing_else() -> None:
    rule = Rule(**PLAIN, advice="Lower it.", quotes=("learning_rate", "beta", "name"))
    assert advice(rule, {}) == "Lower it."
    assert advice(rule, {"learning_rate": 3e-4, "name": "a" * 500, "token": "secret"}).startswith(
        "(configured: learning_rate 0.0003, name aaa"
    )
    assert "secret" not in advice(rule, {"token": "secret"}) and len(advice(rule, {"name": "a" * 500})) < 130


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


def test_what_comes_back_has_to_be_clear_for_twice_as_long_each_time() -> None:
    found = transitions(ruled(), {step: 2.0 if step % 10 == 0 else 0.0 for step in range(170)})
    assert [(alert.step, alert.state, alert.times) for alert in found] == [
        (0, "firing", 1), (1, "resolved", 1), (10, "firing", 2), (12, "resolved", 2), (20, "firing", 3),
        (24, "resolved", 3), (30, "firing", 4), (38, "resolved", 4), (40, "firing", 5),
    ]  # fmt: skip
    assert [(alert.state, alert.step) for alert in found if alert.notify] == [("firing", 0), ("resolved", 1)]
    assert found[0].message.endswith("limit 1.") and found[-1].message.endswith("It has fired 5 times since step 0.")
    assert found[-1].first_step == 40


@pytest.mark.parametrize("apart", [1, 10, 1000])
def test_rows_may_be_any_number_of_steps_apart(apart: int) -> None:
    """Twelve breaches that come and go; with rows that are far apart too they are one incident."""
    values = ([2.0] * 3 + [0.0] * 12) * 12
    found = transitions(ruled(clear_after=3), {apart * row: value for row, value in enumerate(values)})
    assert max(alert.times for alert in found) == 4 and sum(alert.notify for alert in found) == 2


def test_a_return_long_after_ends_as_soon_as_the_first() -> None:
    found = transitions(ruled(), {0: 2.0, 1: 0.0, 2: 2.0, 3: 0.0, 4: 0.0} | dict.fromkeys(range(5, 200), 0.0))
    again = transitions(ruled(), {0: 2.0, **dict.fromkeys(range(1, 200), 0.0), 200: 2.0, 201: 0.0})
    assert [alert.step for alert in found if alert.state == "resolved"] == [1, 4]
    assert [(alert.step, alert.times) for alert in again] == [(0, 1), (1, 1), (200, 2), (201, 2)]


@pytest.mark.parametrize("apart", [5, 40, 170, 2000])
def test_however_often_it_comes_back_in_a_run_it_is_told_once_and_counted(apart: int) -> None:
    found = transitions(ruled(), {step: 2.0 if step % apart == 0 else 0.0 for step in range(17 * apart)})
    assert [(alert.state, alert.step) for alert in found if alert.notify] == [("firing", 0), ("resolved", 1)]
    assert "Should it come back" in found[1].message
    assert not [alert for alert in found[2:] if "Should it come back" in alert.message]
    if apart >= 170:
        assert [alert.times for alert in found if alert.state == "firing"] == [*range(1, 18)]
        assert all(alert.step % apart == 1 for alert in found if alert.state == "resolved")
        last = found[-1].message
        assert last.endswith("It has fired 17 times since step 0.")


def test_a_run_that_goes_back_begins_to_count_anew() -> None:
    watch = ruled()
    first = transitions(watch, {0: 0.0, 100: 2.0, 101: 0.0, 110: 2.0, 111: 0.0, 112: 0.0})
    again = transitions(watch, {50: 2.0, 51: 0.0, 60: 2.0})
    assert [(alert.times, alert.notify) for alert in first] == [(1, True), (1, True), (2, False), (2, False)]
    assert [(alert.times, alert.notify) for alert in again] == [(1, True), (1, True), (2, False)]


@pytest.mark.parametrize(("quiet", "fields", "times"), [(99, {}, 2), (100, {}, 2), (1, {"reopen_steps": 0}, 1)])
def test_only_where_a_rule_says_so_is_each_firing_a_new_alert(quiet: int, fields: dict[str, int], times: int) -> None:
    found = transitions(ruled(**fields), {0: 2.0, **dict.fromkeys(range(10, 10 + quiet), 0.0), 10 + quiet: 2.0})
    assert (found[-1].times, found[-1].notify) == (times, times == 1)


def test_a_repeat_that_is_more_severe_is_told_with_its_end() -> None:
    found = transitions(
        ruled(), {0: 2.0, 1: 0.0, 2: 2.0, 3: 9.0, 4: 0.0, 5: 0.0, 6: 9.0, **dict.fromkeys(range(7, 11), 0.0)}
    )
    assert [(alert.step, alert.state, alert.severity, alert.notify) for alert in found] == [
        (0, "firing", "warning", True),
        (1, "resolved", "warning", True),
        (2, "firing", "warning", False),
        (3, "firing", "critical", True),
        (5, "resolved", "critical", True),
        (6, "firing", "critical", False),
        (10, "resolved", "critical", False),
    ]
    assert [alert.times for alert in found] == [1, 1, 2, 2, 2, 3, 3]


def test_what_it_costs_is_counted_over_all_returns() -> None:
    """Ten steps of a breach are critical, whether they come at once or in threes with rows between that are clear."""
    values = ([2.0] * 4 + [0.0] * 8) * 9
    found = transitions(ruled(critical_after=10), dict(enumerate(values)))
    worse = [alert for alert in found if alert.severity == "critical" and alert.notify and alert.state == "firing"]
    assert [(alert.step, alert.times) for alert in worse] == [(37, 4)]
    assert worse[0].message.endswith("It has fired 4 times since step 0. It has lasted 10 steps in all.")
    apart = transitions(ruled(critical_after=10, reopen_steps=0), dict(enumerate(values)))
    assert {alert.severity for alert in apart} == {"warning"}


@given(VALUES, st.integers(0, 60))
def test_repeats_are_counted_the_same_through_a_state(values: list[float], cut: int) -> None:
    rule = Rule(**PLAIN, clear_after=2, reopen_steps=7)
    whole = transitions(Watch(rule, {}), dict(enumerate(values)))
    first, second = Watch(rule, {}), Watch(rule, {})
    before = transitions(first, dict(enumerate(values[:cut])))
    second.load_state(json.loads(json.dumps(first.state(), allow_nan=False)))
    assert before + transitions(second, dict(enumerate(values[cut:], cut))) == whole


def test_a_rule_has_judged_when_its_warm_up_is_over() -> None:
    watch = ruled(warm_up_samples=2)
    judged = []
    for step in range(4):
        watch.look(step, {"x": 0.0})
        judged.append(watch.judged)
    assert judged == [False, False, True, True]
    jump = Watch(Rule(id="mine.jump", keys=("x",), condition="jump", parameters={"minimum": 4}), {})
    for step in range(7):
        jump.look(step, {"x": 1.0})
        assert not jump.judged, "three values wait, and four make a baseline"
    jump.look(7, {"x": 1.0})
    assert jump.judged


def test_a_mean_is_named_beside_the_rows_own_value() -> None:
    parameters = {"threshold": 0.4, "span": 3.0}
    rule = Rule(id="mine.cut", keys=("x",), condition="level", parameters=parameters, message="{value:.0%} are cut.")
    watch = Watch(rule, {})
    (alert,) = transitions(watch, {0: 0.2, 1: 0.3, 2: 1.0})
    assert alert.value == 0.625 and alert.evidence["now"] == 1.0
    assert alert.message == "62% are cut. That is a mean over 3 rows; step 2 alone has 100%."
    plain_rule = rule.model_copy(update={"message": "Too many are cut."})
    (alert,) = transitions(Watch(plain_rule, {}), {0: 0.2, 1: 0.3, 2: 1.0})
    assert alert.message == "Too many are cut."


def test_a_consequence_is_named_once() -> None:
    watch = ruled()
    (fired,) = transitions(watch, {0: 2.0})
    first = watch.add_consequence("kl.high")
    assert first is not None and (first.notify, first.step, first.consequences) == (False, 0, ("kl.high",))
    assert first.message == f"{fired.message} With it: kl.high."
    assert watch.add_consequence("kl.high") is None
    second = watch.add_consequence("kl.spike")
    assert second is not None and second.message == f"{fired.message} With it: kl.high, kl.spike."
    watch.look(1, {"x": 9.0})
    worse = watch.fire(1, "critical", watch.finding)
    assert worse.consequences == ("kl.high", "kl.spike") and worse.message.endswith("With it: kl.high, kl.spike.")
    assert watch.resolve(2, worse).consequences == ("kl.high", "kl.spike")
    assert ruled().add_consequence("kl.high") is None


def test_several_things_to_try_are_one_text_in_the_alert() -> None:
    rule = Rule(**PLAIN, advice=["Look.", "Wait."])
    assert rule.advice == "Look.\nWait." and advice(rule, {}) == "Look. Wait."
