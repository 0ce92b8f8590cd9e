from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from rldk_tracking.health.actions import Call, Webhook, action
from rldk_tracking.health.alert import Alert
from rldk_tracking.health.rules import Rule
from rldk_tracking.journal.actions import Acting
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
    acting = Acting([rule("a.stop", "stop"), rule("a.save", "alert", "save"), rule("a.none")])
    stop, save, none = (make_alert(rule=name) for name in ("a.stop", "a.save", "a.none"))
    assert acting.decides
    assert acting.stop([none, save, stop]) is stop
    assert acting.stop([none, save]) is None
    assert acting.save([save])
    assert not acting.save([stop, none, make_alert(rule="a.save", state="resolved")])
    assert not Acting([rule("a.none", "alert")]).decides


def test_functions_hear_of_their_rule_and_their_errors_are_logged_once(
    make_alert: Callable[..., Alert], caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[Alert] = []

    @action("tests_break")
    def broken(alert: Alert) -> None:
        raise OSError("the pager is out")

    acting = Acting([rule("a.calls", Call("tests_break"), heard.append), rule("a.none")])
    fired, ended = make_alert(rule="a.calls"), make_alert(rule="a.calls", state="resolved")
    with caplog.at_level(logging.ERROR):
        for alert in (fired, make_alert(rule="a.none"), ended):
            acting.tell(alert)
    assert heard == [fired, ended]
    assert len([record for record in caplog.records if "an action of a.calls" in record.getMessage()]) == 1
    with pytest.raises(OSError, match="the pager is out"):
        Acting([rule("a.calls", broken)], strict=True).tell(fired)


def test_webhooks_hear_of_the_rules_that_name_them(server: Server, make_alert: Callable[..., Alert]) -> None:
    hook = Webhook(server.url, allow_loopback=True)
    acting = Acting([rule("a.one", hook), rule("a.two", hook), rule("a.none")])
    acting.open(RunInfo(name="lunar"))
    for name in ("a.one", "a.two", "a.none"):
        acting.tell(make_alert(rule=name))
    acting.close(5.0)
    assert [message["rule"] for message in server.messages] == ["a.one", "a.two"]


def test_what_cannot_be_is_said_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="no function is named"):
        Acting([rule("a.calls", Call("tests_nobody"))])
    with pytest.raises(ValueError, match=r"a\.hook: the webhook needs an address \(environment variable PAGER_URL\)"):
        Acting([rule("a.hook", Webhook(environment="PAGER_URL"))])
    with pytest.raises(ValueError, match="must begin with https") as refused:
        Acting([rule("a.hook", Webhook(f"http://pager.example/{TOKEN}"))])
    assert TOKEN not in str(refused.value)
