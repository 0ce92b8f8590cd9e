"""What rules find in a run, what they ask for, and how a resumed run goes on judging."""

from __future__ import annotations

from typing import Any

import pytest

from rldk_tracking.health.conditions.levels import Level
from rldk_tracking.health.rule import Rule
from rldk_tracking.isolation import TrainingStopped
from tests.test_run import LENGTH, LOSS, NAN, run_of, step_of


def long_rule(*actions: str) -> Rule:
    """Fires while the mean length is above 5, and ends at the first step at which it is not."""
    parameters, options = {"threshold": 5.0}, {"severity": "critical", "clear_after": 1}
    return Rule(id="team.long", keys=(LENGTH,), condition="level", parameters=parameters, actions=actions, **options)


def test_the_status_follows_the_alerts() -> None:
    run, tracker = run_of(strict=True)
    for step, broken in ((1, 0.0), (2, 2.0), (3, 2.0)):
        run.finish(step_of(step, {NAN: broken}))
    assert run.latest["rldk/alerts/firing"] == 1.0
    run.close("finished")
    assert tracker.statuses == [(0, "running"), (2, "critical"), (3, "finished")]
    assert [alert.rule for alert in run.publisher.alerts] == [alert.rule for alert in tracker.alerts] == ["nan.weights"]


@pytest.mark.parametrize(("on_critical", "stops"), [("alert", False), ("stop", True)])
def test_a_critical_alert_stops_where_that_is_wanted(on_critical: str, stops: bool) -> None:
    run, _ = run_of(on_critical=on_critical, strict=True)
    run.finish(step_of(1, {NAN: 0.0}))
    assert not run.should_stop
    run.finish(step_of(2, {NAN: 1.0}))
    assert run.should_stop == stops and not run.take_save()
    assert (run.stop is not None and run.stop.rule == "nan.weights") == stops
    run.close("finished")


def test_no_warning_stops() -> None:
    run, _ = run_of(rules=[long_rule().model_copy(update={"severity": "warning"})], on_critical="stop", strict=True)
    run.finish(step_of(1, {LENGTH: 9.0}))
    assert [alert.severity for alert in run.publisher.alerts] == ["warning"] and not run.should_stop
    run.close("finished")


@pytest.mark.parametrize("action", ["stop", "save"])
def test_a_rule_may_ask_for_a_stop_or_a_save(action: str) -> None:
    run, _ = run_of(rules=[long_rule(action)], strict=True)
    run.finish(step_of(1, {LENGTH: 9.0}))
    assert (run.should_stop, run.take_save()) == (action == "stop", action == "save")
    assert (run.stop is not None) == (action == "stop")
    run.close("finished")


@pytest.mark.parametrize("settings", [{"on_critical": "stop"}, {"actions": ["stop", "save"]}])
def test_an_alert_that_ends_asks_for_nothing_also_after_a_resume(settings: dict[str, Any]) -> None:
    rules = [long_rule(*settings.pop("actions", ()))]
    before, _ = run_of(rules=rules, **settings)
    before.finish(step_of(7, {LENGTH: 9.0}))
    assert before.should_stop
    state = before.state()
    before.close("stopped")
    run, _ = run_of(rules=rules, strict=True, **settings)
    run.load_state(state, 7)
    run.finish(step_of(8, {LENGTH: 1.0}))
    assert [(alert.state, alert.severity) for alert in run.publisher.alerts] == [("resolved", "critical")]
    assert (run.should_stop, run.take_save(), run.stop) == (False, False, None)
    run.finish(step_of(9, {LENGTH: 9.0}))
    assert run.should_stop, "it begins anew"
    run.close("stopped")


def test_what_stops_a_trainer_that_ignores_the_flag() -> None:
    run, tracker = run_of(on_critical="stop")
    run.finish(step_of(4, {NAN: 1.0}))
    with pytest.raises(TrainingStopped, match=r"step 4 by nan\.weights") as stopped:
        run.raise_stop(5)
    assert (stopped.value.rule, stopped.value.step) == ("nan.weights", 4)
    assert run.closed and tracker.statuses[-1] == (4, "stopped")


def test_the_state_goes_on_in_another_run() -> None:
    run, _ = run_of(strict=True)
    assert run.state() == {}, "before its first event"
    run.finish(step_of(7, {NAN: 1.0}))
    state = run.state()
    run.close("finished")
    resumed, tracker = run_of(strict=True)
    resumed.load_state(state, 7)
    resumed.load_state({}, 7)  # of a second monitor, which has none
    resumed.finish(step_of(8, {NAN: 1.0}))
    assert tracker.alerts == [], "it was said already"
    assert tracker.series["rldk/alerts/firing"] == [(8, 1.0)]
    assert tracker.statuses[0] == (7, "running")
    resumed.close("finished")


def test_a_state_that_cannot_be_read_is_named_and_left(caplog: pytest.LogCaptureFixture) -> None:
    run, tracker = run_of(strict=True)
    run.load_state({"version": 99}, 3)
    run.finish(step_of(4))
    assert "judging starts afresh" in caplog.text and "99" in caplog.text
    assert tracker.series[LOSS] == [(4, 4.0)]
    run.close("finished")


def test_a_rule_that_fails_in_a_run_costs_itself_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Level, step: int, row: Any) -> Any:
        raise TypeError("'>' not supported between instances of 'float' and 'str'")

    rules = [long_rule("stop"), Rule(id="team.other", keys=(LOSS,), condition="jump")]
    run, tracker = run_of(rules=rules, on_critical="stop")
    monkeypatch.setattr(Level, "judge", fail)
    for step in range(1, 5):
        run.finish(step_of(step, {LENGTH: 9.0, LOSS: 1.0}))
    run.close("finished")
    assert [step for step, _ in tracker.series[LOSS]] == [1, 2, 3, 4], "every row is stored"
    (alert,) = tracker.alerts
    assert (alert.rule, alert.severity, alert.step) == ("health.rule_failed", "warning", 1)
    assert "team.long (TypeError" in alert.message and not run.should_stop
    assert [status for _, status in tracker.statuses] == ["running", "warning", "finished"]
