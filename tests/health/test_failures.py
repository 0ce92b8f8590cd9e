"""Rules that raise: the others go on, and an alert says so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from rldk_tracking.health.conditions import CONDITIONS
from rldk_tracking.health.conditions.levels import Level
from rldk_tracking.health.engine import Engine
from rldk_tracking.health.failures import RULE_FAILED
from rldk_tracking.health.rule import Rule

KEY, OTHER = "rldk/length/mean", "rldk/grad/norm"


def level_of(name: str, key: str, **fields: Any) -> Rule:
    return Rule(id=name, keys=(key,), condition="level", parameters={"threshold": 1.0}, clear_after=1, **fields)


class Failing(Level):
    """Raises at the value 13."""

    def judge(self, step: int, row: Mapping[str, float]) -> Any:
        if row.get(self.keys[0]) == 13.0:
            raise TypeError("'>' not supported between instances of 'float' and 'str'")
        return super().judge(step, row)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    monkeypatch.setitem(CONDITIONS, "drop", Failing)
    bad = level_of("length.bad", KEY).model_copy(update={"condition": "drop"})
    return Engine([bad, level_of("grad.good", OTHER)])


def run(engine: Engine, *values: tuple[float, float]) -> list[tuple[int, str, str]]:
    return [
        (alert.step, alert.rule, alert.state)
        for step, (length, norm) in enumerate(values, 1)
        for alert in engine.update(step, {KEY: length, OTHER: norm})
    ]


def test_the_others_go_on_and_the_failure_is_an_alert(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    changes = run(engine, (0.0, 0.0), (13.0, 0.0), (13.0, 2.0), (0.0, 0.0))
    assert changes == [(2, RULE_FAILED, "firing"), (3, "grad.good", "firing"), (4, "grad.good", "resolved")]
    assert caplog.text.count("the rule length.bad failed at step 2 and is switched off") == 1
    assert "'>' not supported" in caplog.text, "with its cause"
    assert dict(engine.failed) == {"length.bad": "TypeError: '>' not supported between instances of 'float' and 'str'"}
    (alert,) = engine.firing
    assert (alert.rule, alert.severity, alert.value) == (RULE_FAILED, "warning", 1.0)
    assert "length.bad (TypeError: '>' not supported" in alert.message and "enabled" in alert.advice


def test_a_rule_that_failed_counts_for_no_score(engine: Engine) -> None:
    run(engine, (0.0, 0.0))
    assert {"rldk/health/length", "rldk/health/grad"} <= engine.scores().keys()
    engine.update(2, {KEY: 13.0, OTHER: 0.0})
    assert "rldk/health/length" not in engine.scores(), "it is not quiet: it knows nothing"
    assert engine.scores()["rldk/health/grad"] == 1.0


def test_its_open_alert_ends_as_nobody_judges_it_any_more(engine: Engine) -> None:
    engine.update(1, {KEY: 2.0, OTHER: 0.0})
    ended, failure = engine.update(2, {KEY: 13.0, OTHER: 0.0})
    assert (ended.rule, ended.state) == ("length.bad", "resolved")
    assert ended.message.startswith("No longer judged, because the rule failed (TypeError: ")
    assert failure.rule == RULE_FAILED and [alert.rule for alert in engine.firing] == [RULE_FAILED]


def test_a_second_one_is_named_beside_the_first(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    run(engine, (13.0, 0.0))
    monkeypatch.setattr(Level, "judge", lambda self, step, row: 1 // 0)
    (alert,) = engine.update(2, {KEY: 0.0, OTHER: 0.0})
    assert alert.value == 2.0 and "length.bad" in alert.message and "grad.good (ZeroDivisionError" in alert.message
    assert alert.first_step == 1 and engine.update(3, {KEY: 0.0, OTHER: 0.0}) == []


def test_a_sentence_that_cannot_be_filled_is_such_a_failure() -> None:
    rule = level_of("grad.word", OTHER).model_copy(update={"message": "{value:d}"})
    engine = Engine([rule, level_of("grad.good", OTHER)])
    assert {alert.rule for alert in engine.update(1, {OTHER: 2.0})} == {RULE_FAILED, "grad.good"}
    assert "Unknown format code 'd'" in engine.failed["grad.word"]


def test_strict_lets_it_out(engine: Engine) -> None:
    strict = Engine(engine.rules, strict=True)
    with pytest.raises(TypeError, match="not supported"):
        strict.update(1, {KEY: 13.0})


def test_a_resumed_run_judges_every_rule_again(engine: Engine) -> None:
    run(engine, (0.0, 0.0), (13.0, 0.0))
    resumed = Engine(engine.rules)
    resumed.load_state(engine.state())
    (ended,) = resumed.update(3, {KEY: 0.0, OTHER: 0.0})
    assert (ended.rule, ended.state) == (RULE_FAILED, "resolved") and "judged again" in ended.message
    assert resumed.update(4, {KEY: 0.0, OTHER: 0.0}) == [] and not resumed.failed


def test_it_fails_at_its_row_where_many_are_judged_at_a_time(engine: Engine) -> None:
    rows = [(step, {KEY: length, OTHER: 2.0 * (step == 2)}) for step, length in enumerate((0.0, 2.0, 0.0, 13.0, 0.0))]
    changes = [(alert.step, alert.rule, alert.state) for found in engine.judge(rows) for alert in found]
    assert changes == [
        (1, "length.bad", "firing"),
        (2, "length.bad", "resolved"),
        (2, "grad.good", "firing"),
        (3, RULE_FAILED, "firing"),
        (3, "grad.good", "resolved"),
    ]
