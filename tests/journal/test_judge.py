"""A row is judged and written, and what rules ask for is said and done."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from rldk_tracking.callback import RLDKCallback
from rldk_tracking.health.actions import Call, Webhook, action
from rldk_tracking.health.alert import Alert
from rldk_tracking.health.presets import rules_for
from rldk_tracking.health.rule import Rule
from rldk_tracking.journal.judge import SAVE, STOP, Actions, webhooks_of
from rldk_tracking.journal.settings import Settings
from rldk_tracking.rollout import RunInfo
from rldk_tracking.run import Run
from rldk_tracking.trackers.memory import InMemoryTracker
from tests.trackers.conftest import make_alert
from tests.trackers.test_slack import TOKEN
from tests.trackers.test_slack import Webhook as Server
from tests.trackers.test_slack import webhook as server

LENGTH = "rldk/length/mean"


def run_of(severity: str = "warning", **settings: object) -> tuple[Run, InMemoryTracker]:
    """A run with one rule."""
    rule = Rule(
        id="a.long",
        keys=(LENGTH,),
        condition="level",
        parameters={"threshold": 10.0},
        severity=severity,
        clear_after=1,
        actions=settings.pop("actions", ()),
    )
    return run_by([rule], **settings)


def run_by(rules: list[Rule], **settings: object) -> tuple[Run, InMemoryTracker]:
    tracker = InMemoryTracker()
    run = Run(Settings(trackers=[tracker], rules=rules, **settings))
    run.open()
    return run, tracker


def judged(run: Run, step: int, row: dict[str, float]) -> int:
    """What is asked for when a row is written."""
    run._flags = 0
    run._write(step, row)
    return run._flags


def test_a_row_gets_its_scores_and_is_written_with_its_alerts() -> None:
    run, tracker = run_of()
    row = {LENGTH: 20.0}
    assert judged(run, 1, row) == 0
    assert row["rldk/alerts/firing"] == 1.0 and row["rldk/health/score"] == 0.5
    assert tracker.series[LENGTH] == [(1, 20.0)] and [alert.rule for alert in tracker.alerts] == ["a.long"]
    assert tracker.statuses[-1] == (1, "warning")
    judged(run, 2, {LENGTH: 1.0})
    assert [(alert.state, alert.step) for alert in run.publisher.alerts] == [("firing", 1), ("resolved", 2)]
    assert tracker.statuses[-1] == (2, "running")


def test_a_row_says_how_many_rules_have_judged() -> None:
    run, tracker = run_of()
    judged(run, 1, {"rldk/reward/mean": 1.0})
    judged(run, 2, {LENGTH: 1.0})
    said = {key.removeprefix("rldk/alerts/"): points for key, points in tracker.series.items() if "rules_" in key}
    assert said == {
        "rules_judged": [(1, 0.0), (2, 1.0)],
        "rules_warming_up": [(1, 0.0), (2, 0.0)],
        "rules_without_data": [(1, 1.0), (2, 0.0)],
        "core_rules_judged": [(1, 0.0), (2, 1.0)],
    }


def test_what_became_known_of_an_earlier_step_is_judged_at_its_step_without_the_scores_of_now() -> None:
    run, tracker = run_of()
    for step in (4, 5):
        judged(run, step, {"rldk/train/loss": float(step)})
    late = {LENGTH: 20.0}
    judged(run, 4, late)
    assert late == {LENGTH: 20.0}
    assert tracker.series[LENGTH] == [(4, 20.0)]
    assert [(alert.rule, alert.step) for alert in run.publisher.alerts] == [("a.long", 4)]
    assert tracker.statuses[-1] == (5, "warning"), "the run is so now"
    assert run.publisher.latest[0] == 5 and LENGTH not in run.publisher.latest[1]
    row = {"rldk/train/loss": 6.0}
    judged(run, 6, row)
    assert row["rldk/alerts/firing"] == 1.0 and row["rldk/health/score"] == 0.5


def test_an_empty_row_is_none() -> None:
    run, tracker = run_of()
    assert judged(run, 1, {}) == 0 and tracker.series == {}


@pytest.mark.parametrize(("severity", "flags"), [("warning", 0), ("critical", STOP)])
def test_the_user_may_want_a_critical_alert_to_stop(severity: str, flags: int) -> None:
    run, _ = run_of(severity, on_critical="stop")
    assert judged(run, 1, {LENGTH: 20.0}) == flags
    assert (run.stop is not None) == bool(flags)
    assert judged(run, 2, {LENGTH: 20.0}) == flags, "once asked for it stays so"


def test_an_alert_that_ends_asks_for_nothing_also_after_a_resume() -> None:
    before, _ = run_of("critical")
    judged(before, 1, {LENGTH: 20.0})
    run, _ = run_of("critical", on_critical="stop", actions=("stop", "save"))
    run.open()[1].load_state(before.state())
    assert judged(run, 2, {LENGTH: 1.0}) == 0
    assert [alert.state for alert in run.publisher.alerts] == ["resolved"] and run.stop is None


def test_a_rule_may_ask_for_a_checkpoint() -> None:
    run, _ = run_of(actions=("save",))
    assert judged(run, 1, {LENGTH: 20.0}) == SAVE
    assert judged(run, 2, {LENGTH: 20.0}) == 0, "when it fires, not as long as it does"


def test_limits_of_the_user_are_series(caplog: pytest.LogCaptureFixture) -> None:
    run, tracker = run_of(goals={"max_kl_divergence": 0.1})
    judged(run, 1, {LENGTH: 1.0})
    assert tracker.series["rldk/kl/limit"] == [(1, 0.1)]
    run.open()[1].load_state({"version": 99})
    assert "judging starts afresh" in caplog.text


def test_an_alert_with_more_consequences_acts_once() -> None:
    called: list[tuple[str, ...]] = []
    cause = Rule(
        id="a.long",
        keys=(LENGTH,),
        condition="level",
        parameters={"threshold": 10.0},
        silences=("b.*",),
        actions=(lambda alert: called.append(alert.consequences), "save"),
    )
    late = Rule(id="b.kl", keys=("rldk/kl/ref_k3",), condition="level", parameters={"threshold": 1.0})
    run, tracker = run_by([cause, late])
    assert judged(run, 1, {LENGTH: 20.0}) == SAVE
    assert judged(run, 2, {LENGTH: 20.0, "rldk/kl/ref_k3": 2.0}) == 0
    assert [(alert.rule, alert.step, alert.consequences) for alert in run.publisher.alerts] == [
        ("a.long", 1, ("b.kl",))
    ]
    assert [alert.notify for alert in tracker.alerts] == [True, False], "trackers are given it anew"
    assert called == [()]


__all__ = ["make_alert", "server"]


def rule(name: str, *actions: object) -> Rule:
    return Rule(
        id=name, keys=("rldk/length/mean",), condition="level", parameters={"threshold": 1.0}, actions=list(actions)
    )


def test_who_asks_to_stop_and_to_save(make_alert: Callable[..., Alert]) -> None:
    actions = Actions([rule("a.stop", "stop"), rule("a.save", "alert", "save"), rule("a.none")])
    stop, save, none = (make_alert(rule=name) for name in ("a.stop", "a.save", "a.none"))
    assert actions.stop([none, save, stop]) is stop
    assert actions.stop([none, save]) is None
    assert actions.save([none, save])
    assert not actions.save([stop, none])


def test_the_end_of_an_alert_asks_for_nothing(make_alert: Callable[..., Alert]) -> None:
    actions = Actions([rule("a.both", "stop", "save")])
    ended = make_alert(rule="a.both", state="resolved")
    assert actions.stop([ended]) is None and not actions.save([ended])
    begins = make_alert(rule="a.both")
    assert actions.stop([ended, begins]) is begins and actions.save([ended, begins])


def test_functions_hear_of_their_rule_and_their_errors_are_logged_once(
    make_alert: Callable[..., Alert], caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[Alert] = []

    @action("tests_break")
    def broken(alert: Alert) -> None:
        raise OSError("the pager is out")

    actions = Actions([rule("a.calls", Call("tests_break"), heard.append), rule("a.none")])
    fired, ended = make_alert(rule="a.calls"), make_alert(rule="a.calls", state="resolved")
    with caplog.at_level(logging.ERROR):
        for alert in (fired, make_alert(rule="a.none"), ended):
            actions.call(alert)
    assert heard == [fired, ended]
    assert len([record for record in caplog.records if "an action of a.calls" in record.getMessage()]) == 1
    with pytest.raises(OSError, match="the pager is out"):
        Actions([rule("a.calls", broken)], strict=True).call(fired)


def test_one_webhook_of_several_rules_is_one_notifier(server: Server, make_alert: Callable[..., Alert]) -> None:
    hook, other = Webhook(server.url, allow_loopback=True), Webhook(server.url + "/2", allow_loopback=True)
    rules = [rule("a.one", hook), rule("a.two", hook, other), rule("a.none")]
    first, second = webhooks_of(rules)
    assert (first.rules, second.rules) == ({"a.one", "a.two"}, {"a.two"})
    first.open(RunInfo(name="lunar"))
    for name in ("a.one", "a.two", "a.none"):
        first.alert(make_alert(rule=name))
    first.close()
    assert [(message["rule"], message["run"]) for message in server.messages] == [
        ("a.one", "lunar"),
        ("a.two", "lunar"),
    ]


def test_what_cannot_be_is_said_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="no function is named"):
        Actions([rule("a.calls", Call("tests_nobody"))])
    with pytest.raises(ValueError, match=r"a\.hook: the webhook needs an address \(environment variable PAGER_URL\)"):
        Actions([rule("a.hook", Webhook(environment="PAGER_URL"))])
    with pytest.raises(ValueError, match="must begin with https") as refused:
        Actions([rule("a.hook", Webhook(f"http://pager.example/{TOKEN}"))])
    assert TOKEN not in str(refused.value)


def test_the_variable_of_an_address_is_known_to_a_later_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """`sync` finds the address there, since the journal does not hold it."""
    monkeypatch.setenv("PAGER_URL", f"https://example.com/{TOKEN}")
    (notifier,) = webhooks_of([rule("a.hook", Webhook(environment="PAGER_URL"))])
    assert notifier.address() == {"environment": "PAGER_URL", "rules": "a.hook"}
    (given,) = webhooks_of([rule("a.hook", Webhook(f"https://example.com/{TOKEN}"))])
    assert given.address() == {"rules": "a.hook"}


@pytest.mark.parametrize("asked", ["stop", "save", print, Call("tests_break")])
@pytest.mark.parametrize("name", ["run.crashed", "run.hung"])
def test_of_a_training_that_is_gone_nobody_can_ask_anything(name: str, asked: object) -> None:
    with pytest.raises(ValueError, match=f"{name} fires when the training stands still or is gone"):
        Actions(rules_for("safe", {name: {"actions": ["alert", asked]}}))


def test_a_webhook_hears_of_a_training_that_is_gone() -> None:
    hook = Webhook("https://pager.example/xyz")
    (notifier,) = webhooks_of(rules_for("safe", {"run.crashed": {"actions": ["alert", hook]}}))
    assert notifier.rules == {"run.crashed"}


def test_it_is_refused_when_the_callback_is_made() -> None:
    with pytest.raises(ValueError, match="run.hung fires when"):
        RLDKCallback(overrides={"run.hung": {"actions": ["stop"]}})
