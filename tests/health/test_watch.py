"""One rule over a run, beyond what the engine's tests show: sentences, state, and a plain reference to compare with."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from rldk_tracking.health.alert import Alert
from rldk_tracking.health.rules import Rule
from rldk_tracking.health.watch import Watch, advice

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
