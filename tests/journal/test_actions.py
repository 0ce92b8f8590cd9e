from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from rldk_tracking.callback import RLDKCallback
from rldk_tracking.health.actions import Call, Webhook, action
from rldk_tracking.health.alert import Alert
from rldk_tracking.health.presets import rules_for
from rldk_tracking.health.rule import Rule
from rldk_tracking.journal.actions import Actions
from rldk_tracking.rollout import RunInfo
from tests.trackers.conftest import make_alert
from tests.trackers.test_slack import TOKEN
from tests.trackers.test_slack import Webhook as Server
from tests.trackers.test_slack import webhook as server

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
    first, second = Actions(rules).webhooks
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
    (notifier,) = Actions([rule("a.hook", Webhook(environment="PAGER_URL"))]).webhooks
    assert notifier.address() == {"environment": "PAGER_URL", "rules": "a.hook"}
    (given,) = Actions([rule("a.hook", Webhook(f"https://example.com/{TOKEN}"))]).webhooks
    assert given.address() == {"rules": "a.hook"}


@pytest.mark.parametrize("asked", ["stop", "save", print, Call("tests_break")])
@pytest.mark.parametrize("name", ["run.crashed", "run.hung"])
def test_of_a_training_that_is_gone_nobody_can_ask_anything(name: str, asked: object) -> None:
    with pytest.raises(ValueError, match=f"{name} fires when the training stands still or is gone"):
        Actions(rules_for("safe", {name: {"actions": ["alert", asked]}}))


def test_a_webhook_hears_of_a_training_that_is_gone() -> None:
    hook = Webhook("https://pager.example/xyz")
    (notifier,) = Actions(rules_for("safe", {"run.crashed": {"actions": ["alert", hook]}})).webhooks
    assert notifier.rules == {"run.crashed"}


def test_it_is_refused_when_the_callback_is_made() -> None:
    with pytest.raises(ValueError, match="run.hung fires when"):
        RLDKCallback(overrides={"run.hung": {"actions": ["stop"]}})
