"""Messages through apprise, to servers on loopback: a JSON receiver, ntfy, and a mail server."""

from __future__ import annotations

import copy
import pickle
import re
import socket
import sys
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from rldk_tracking.health.alert import Alert
from rldk_tracking.messages.packages import install_line
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers import notify
from rldk_tracking.trackers.base import LostAnswerError, RejectedError, UnavailableError
from rldk_tracking.trackers.channel import alert_message
from rldk_tracking.trackers.notify import AppriseNotifier, NotifyBackend, body_of, channels
from rldk_tracking.trackers.registry import resumed, trackers_for
from tests.trackers.conftest import free_port
from tests.trackers.receivers import Chat, Mailbox, chat, mailbox, ntfy

pytest.importorskip("apprise", reason="needs apprise")

__all__ = ["chat", "mailbox", "ntfy"]


def in_courier(address: str) -> AppriseNotifier:
    """The notifier as the courier has it."""
    first = AppriseNotifier(address)
    first.open(RunInfo(name="run 7"))
    found = AppriseNotifier.resume(first.address(), first.secrets())
    found.open(RunInfo(name="run 7"))
    return found


def test_one_alert_in_three_kinds_of_channel(
    chat: Chat, ntfy: Chat, mailbox: Mailbox, make_alert: Callable[..., Alert]
) -> None:
    for address in (chat.address, ntfy.address, mailbox.url):
        notifier = in_courier(address)
        notifier.link_to_pages([lambda: "https://host/run"])
        notifier.alert(make_alert())
        notifier.alert(make_alert(step=13))
    (said,) = chat.messages
    assert (said["title"], said["type"]) == ("rldk warning: kl.high", "warning")
    for fact in ("Step: 12 (first seen at 10)", "Value: 0.31", "Threshold: 0.2", "Advice:", "run 7 https://host/run"):
        assert fact in said["message"]
    assert ntfy.titles == ["rldk warning: kl.high"]
    assert ntfy.messages[0]["topic"] == "SECRET"
    assert mailbox.titles == ["rldk warning: kl.high"]
    assert "run 7 https://host/run" in mailbox.text(0)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (302, RejectedError),
        (400, RejectedError),
        (404, RejectedError),
        (408, UnavailableError),
        (429, UnavailableError),
        (500, UnavailableError),
        (503, UnavailableError),
    ],
)
def test_what_may_pass_and_what_does_not(
    chat: Chat, make_alert: Callable[..., Alert], status: int, kind: type[Exception]
) -> None:
    chat.answers = [(status, {"Location": chat.url})]
    notifier = in_courier(chat.address)
    with pytest.raises(kind, match=str(status)) as caught:
        notifier.alert(make_alert())
    assert type(caught.value) is kind
    assert chat.requests == 1, "nothing is repeated here, and no redirect is followed"
    notifier.alert(make_alert())
    assert len(chat.messages) == 1


def test_a_mail_server_that_refuses(mailbox: Mailbox, make_alert: Callable[..., Alert]) -> None:
    mailbox.answers = ["550 no such user"]
    with pytest.raises(RejectedError, match="channel 1"):
        in_courier(mailbox.url).alert(make_alert())
    assert mailbox.mails == []


def test_nobody_there(make_alert: Callable[..., Alert]) -> None:
    port = free_port()
    for address in (f"json://127.0.0.1:{port}/x", f"mailto://localhost:{port}?from=a@host.test&to=b@host.test"):
        with pytest.raises(UnavailableError, match="is not reached"):
            in_courier(address).alert(make_alert())


def test_a_lost_answer_is_not_repeated(chat: Chat, make_alert: Callable[..., Alert]) -> None:
    chat.delay = 0.5
    with pytest.raises(LostAnswerError, match="may have arrived"):
        in_courier(f"{chat.address}?rto=0.1").alert(make_alert())
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"mailto://localhost:{server.getsockname()[1]}?from=a@host.test&to=b@host.test&cto=0.2"
        with pytest.raises(LostAnswerError):
            in_courier(address).alert(make_alert())


def test_a_part_of_the_receivers_has_it(mailbox: Mailbox, make_alert: Callable[..., Alert]) -> None:
    mailbox.answers = ["250 ok", "451 come back later"]
    with pytest.raises(LostAnswerError, match="took a part"):
        in_courier(f"{mailbox.url},others@host.test").alert(make_alert())
    assert len(mailbox.mails) == 1


def test_a_plugin_that_breaks(make_alert: Callable[..., Alert], monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "json://127.0.0.1:9/SECRET"
    notifier = in_courier(secret)

    def broken(**_: Any) -> bool:
        raise KeyError(secret)

    monkeypatch.setattr(notifier._plugin, "notify", broken)
    with pytest.raises(LostAnswerError, match=r"channel 1 breaks \(KeyError\)") as caught:
        notifier.alert(make_alert())
    assert "SECRET" not in "".join(traceback.format_exception(caught.value))


def test_the_address_is_shown_nowhere(
    chat: Chat,
    make_alert: Callable[..., Alert],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RLDK_NOTIFY_URLS", f"critical,warning={chat.address} discrod://SECRET")
    caplog.set_level(1)
    caplog.set_level(1, "apprise")
    secret, shown = "SECRET", []
    first = channels()[0]
    notifier = AppriseNotifier.resume(first.address(), first.secrets())
    chat.answers = [(404, {}), (503, {})]
    for broken in (
        lambda: notifier.alert(make_alert()),
        lambda: notifier.alert(make_alert()),
        lambda: in_courier(f"json://127.0.0.1:{free_port()}/{secret}").alert(make_alert()),
        lambda: in_courier(f"discrod://{secret}"),
        lambda: in_courier(f"discord://{secret}"),
        lambda: AppriseNotifier(secret),
        lambda: AppriseNotifier(f"kl={secret}:"),
    ):
        with pytest.raises((RejectedError, UnavailableError, ValueError)) as caught:
            broken()
        shown += traceback.format_exception(caught.value)
    notifier.alert(make_alert())
    shown += [
        repr(first),
        repr(vars(first)),
        str(first.address()),
        repr(pickle.dumps(first)),
        repr(copy.deepcopy(first)),
    ]
    shown += [str(NotifyBackend().check({})), caplog.text, *capfd.readouterr()]
    assert "SECRET" not in "\n".join(shown)
    assert len(chat.messages) == 1


def test_addresses_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RLDK_NOTIFY_URLS", raising=False)
    assert channels() == []
    monkeypatch.setenv("RLDK_NOTIFY_URLS", " critical=json://h/?a=1,2&+x=y\n kl,ended=ntfy://h/t  discord://1/2 ")
    found = channels()
    assert [channel.secrets()["url"] for channel in found] == ["json://h/?a=1,2&+x=y", "ntfy://h/t", "discord://1/2"]
    assert [dict(channel.address()) for channel in found] == [
        {"messages": "critical", "environment": "RLDK_NOTIFY_URLS", "number": "1"},
        {"messages": "ended,kl", "environment": "RLDK_NOTIFY_URLS", "number": "2"},
        {"environment": "RLDK_NOTIFY_URLS", "number": "3"},
    ]
    assert [tracker.name for tracker in trackers_for([])] == ["notify"] * 3
    later = resumed("notify", found[1].address(), {})
    assert later.secrets()["url"] == "ntfy://h/t", "a later process finds it by its number"
    monkeypatch.setenv("RLDK_NOTIFY_URLS", "json://h")
    with pytest.raises(ValueError, match="channel 2 is not known here; set RLDK_NOTIFY_URLS"):
        resumed("notify", found[1].address(), {})


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("https//host", "channel 1 of RLDK_NOTIFY_URLS is no address: write discord://"),
        ("json://a critical, kl=json://b", "channel 2 of RLDK_NOTIFY_URLS is no address"),
        ("crytical=json://a", "channel 1 of RLDK_NOTIFY_URLS: 'crytical' is no severity.*did you mean critical"),
        ("json://", "channel 1 of RLDK_NOTIFY_URLS is no address"),
    ],
)
def test_what_is_no_address(monkeypatch: pytest.MonkeyPatch, value: str, words: str) -> None:
    monkeypatch.setenv("RLDK_NOTIFY_URLS", value)
    with pytest.raises(ValueError, match=words):
        channels()


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    monkeypatch.setattr(notify, "find_spec", lambda name: None)
    monkeypatch.setenv("RLDK_NOTIFY_URLS", "json://host")
    with pytest.raises(ImportError, match="RLDK_NOTIFY_URLS needs apprise: " + re.escape(install_line("notify"))):
        channels()
    with pytest.raises(ImportError, match="notify"):
        in_courier("json://host")
    assert NotifyBackend().check({})[0] is False


def test_a_message_waits_for_no_other(chat: Chat) -> None:
    assert all(
        notify.plugin(url, "it").request_rate_per_sec <= 1 for url in (chat.address, f"pover://{'u' * 30}@{'t' * 30}")
    )


def test_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RLDK_NOTIFY_URLS", raising=False)
    assert NotifyBackend().check({}) == (
        False,
        "RLDK_NOTIFY_URLS is not set; it holds addresses for Discord, Teams, e-mail, Telegram and others",
    )
    monkeypatch.setenv("RLDK_NOTIFY_URLS", "json://host critical=ntfy://host/t")
    assert NotifyBackend().check({}) == (True, "2 in RLDK_NOTIFY_URLS, which apprise can send to")
    monkeypatch.setenv("RLDK_NOTIFY_URLS", "json://host discrod://1/2")
    usable, words = NotifyBackend().check({})
    assert (usable, "channel 2 of RLDK_NOTIFY_URLS: apprise knows no such scheme; did you mean discord?" in words) == (
        False,
        True,
    )


def test_a_stranger_mentions_nobody(make_alert: Callable[..., Alert]) -> None:
    body = body_of(alert_message(make_alert(message="@everyone <!channel> <@U1> " + "x" * 900), "<#C1>", None))
    for mention in ("@everyone", "<!channel", "<@U1", "<#C1"):
        assert mention not in body
    assert max(map(len, body.splitlines())) < 410
