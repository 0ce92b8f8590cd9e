"""How alerts are posted, and that the address is shown nowhere; by the example of Slack."""

from __future__ import annotations

import copy
import json
import pickle
import socket
import threading
import time
import traceback
from collections.abc import Callable

import pytest
import responses
from responses import registries

from rldk_tracking.health.alert import Alert
from rldk_tracking.trackers.base import RejectedError, UnavailableError
from rldk_tracking.trackers.slack import SlackNotifier
from tests.trackers.test_slack import TOKEN, URL, Webhook, notifier, webhook

__all__ = ["webhook"]


def test_a_busy_channel_gets_it_after_the_time_it_asks_for(webhook: Webhook, make_alert: Callable[..., Alert]) -> None:
    webhook.answers = [(429, {"Retry-After": "1"}), (503, {})]
    slack = notifier(webhook)
    before = time.monotonic()
    slack.alert(make_alert())
    assert 1.0 <= time.monotonic() - before < 5
    assert (webhook.requests, len(webhook.messages)) == (3, 1)
    slack.close()


def test_busy_then_fine_with_a_recorded_slack(make_alert: Callable[..., Alert]) -> None:
    with responses.RequestsMock(registry=registries.OrderedRegistry) as slack_com:
        slack_com.post(URL, status=429, headers={"Retry-After": "0"})
        slack_com.post(URL, status=200, body="ok")
        SlackNotifier(URL).alert(make_alert())
        assert len(slack_com.calls) == 2
        assert json.loads(slack_com.calls[1].request.body)["blocks"]


@pytest.mark.parametrize(("status", "kind"), [(403, RejectedError), (404, RejectedError), (302, RejectedError)])
def test_a_refusal_is_final(
    webhook: Webhook, make_alert: Callable[..., Alert], status: int, kind: type[Exception]
) -> None:
    webhook.answers = [(status, {"Location": "https://elsewhere.invalid/"})]
    slack = notifier(webhook)
    with pytest.raises(kind, match=str(status)):
        slack.alert(make_alert())
    assert webhook.requests == 1
    slack.close()


def test_lasting_overload_is_handed_back(webhook: Webhook, make_alert: Callable[..., Alert]) -> None:
    webhook.answers = [(500, {})] * 10
    slack = notifier(webhook, retries=2)
    with pytest.raises(UnavailableError, match="500"):
        slack.alert(make_alert())
    assert webhook.requests == 3
    webhook.answers = []
    slack.alert(make_alert())
    assert len(webhook.messages) == 1, "what was not accepted must not count as sent"
    slack.close()


def test_a_lost_answer_is_not_repeated(
    webhook: Webhook, make_alert: Callable[..., Alert], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rldk_tracking.trackers.notifier._TIMEOUT", (1.0, 0.2))
    webhook.delay = 0.6
    slack = notifier(webhook)
    with pytest.raises(RejectedError, match="may have arrived"):
        slack.alert(make_alert())
    time.sleep(0.8)
    assert (webhook.requests, len(webhook.messages)) == (1, 1)
    slack.close()


def test_a_connection_that_breaks_off_is_not_repeated(make_alert: Callable[..., Alert]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        accepted = []

        def take_and_hang_up() -> None:
            while len(accepted) < 2:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                accepted.append(connection.recv(100))
                connection.close()

        thread = threading.Thread(target=take_and_hang_up)
        thread.start()
        slack = SlackNotifier(f"http://127.0.0.1:{server.getsockname()[1]}/x", allow_loopback=True, backoff=0.01)
        with pytest.raises(RejectedError, match="may have arrived"):
            slack.alert(make_alert())
        time.sleep(0.1)
        server.shutdown(socket.SHUT_RDWR)
    thread.join(5)
    assert len(accepted) == 1


def test_the_address_is_in_no_exception(webhook: Webhook, make_alert: Callable[..., Alert]) -> None:
    webhook.close()
    slack = notifier(webhook, retries=0)
    try:
        slack.alert(make_alert())
    except UnavailableError as error:
        seen: list[BaseException | None] = [error, error.__cause__, error.__context__]
        report = "".join(traceback.format_exception(error)) + "".join(map(repr, seen))
    assert "UnavailableError" in report
    assert TOKEN not in report
    for bad in (f"http://hooks.slack.com/{TOKEN}", f"ftp://x/{TOKEN}", TOKEN, f"https:///{TOKEN}", f"http://[{TOKEN}"):
        with pytest.raises(ValueError, match="Slack webhook") as refused:
            SlackNotifier(bad)
        assert TOKEN not in str(refused.value)


def test_the_address_does_not_travel(webhook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    slack = SlackNotifier(URL)
    assert TOKEN.encode() not in pickle.dumps(slack)
    thawed = pickle.loads(pickle.dumps(slack))
    alert = Alert("kl.high", "warning", "firing", 1, 1, None, None, "m", "a")
    with pytest.raises(RejectedError, match="RLDK_SLACK_WEBHOOK_URL"):
        thawed.alert(alert)
    assert TOKEN not in repr(copy.deepcopy(slack))


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/x",
        "http://127.0.0.1/x",
        "http://localhost:80/x",
        "http://[::1]/x",
        "https://127.0.0.1/x",
        "hooks.slack.com/services/x",
        "",
    ],
)
def test_only_https_elsewhere(url: str) -> None:
    with pytest.raises(ValueError, match="webhook"):
        SlackNotifier(url)


def test_loopback_flag_does_not_open_other_hosts() -> None:
    for url in ("http://example.com/x", "http://127.0.0.1.example.com/x", "file:///etc/passwd"):
        with pytest.raises(ValueError, match="webhook"):
            SlackNotifier(url, allow_loopback=True)
