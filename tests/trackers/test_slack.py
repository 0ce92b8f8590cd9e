from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import responses

from rldk_tracking.health.alert import Alert
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.channel import alert_message
from rldk_tracking.trackers.memory import InMemoryTracker
from rldk_tracking.trackers.slack import SlackNotifier, slack_payload

TOKEN = "xoxSECRETxox"
URL = f"https://hooks.slack.com/services/T00000000/B00000000/{TOKEN}"


class Webhook:
    """An incoming webhook on loopback. `answers` are (status, headers) to give before it starts to accept.

    How runs ended is in `ends`, everything else in `messages`.
    """

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.ends: list[dict[str, Any]] = []
        self.requests = 0
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.delay = 0.0
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                webhook.requests += 1
                time.sleep(webhook.delay)
                status, headers = webhook.answers.pop(0) if webhook.answers else (200, {})
                if status == 200:
                    is_end = b": run finished" in body or b": run stopped" in body
                    (webhook.ends if is_end else webhook.messages).append(json.loads(body))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *args: Any) -> None:
                return None

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/services/T0/B0/{TOKEN}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    found = Webhook()
    yield found
    found.close()


def texts(payload: Any) -> Iterator[str]:
    """Every string of a message that Slack shows."""
    if isinstance(payload, dict):
        for key, value in payload.items():
            if key == "text" and isinstance(value, str):
                yield value
            else:
                yield from texts(value)
    elif isinstance(payload, list):
        for value in payload:
            yield from texts(value)


def notifier(webhook: Webhook, **options: Any) -> SlackNotifier:
    return SlackNotifier(webhook.url, allow_loopback=True, **({"backoff": 0.01} | options))


def test_one_message_when_it_fires_and_one_when_it_ends(webhook: Webhook, make_alert: Callable[..., Alert]) -> None:
    slack = notifier(webhook)
    slack.open(RunInfo(name="grpo <tiny>"))
    slack.log({"rldk/a": 1.0}, 1)
    slack.alert(make_alert())
    slack.alert(make_alert(step=13))
    slack.alert(make_alert(step=20, state="resolved", message="KL is back at 0.1."))
    slack.alert(make_alert(step=21, state="resolved"))
    slack.close()
    first, second = webhook.messages
    shown = "\n".join(texts(first))
    for fact in ("rldk warning: kl.high", "12", "0.31", "0.2", "KL to the reference is", "Lower the learning rate"):
        assert fact in shown
    assert "grpo &lt;tiny&gt;" in shown
    shown = "\n".join(texts(second))
    assert "rldk resolved: kl.high" in shown
    assert "KL is back" in shown
    assert "Lower the learning rate" not in shown


def test_how_the_run_ended(webhook: Webhook) -> None:
    slack = notifier(webhook)
    slack.open(RunInfo(name="grpo"))
    slack.status("running", {}, 1)
    slack.status("finished", {"rldk/reward/mean": 0.25, "rldk/health/score": 1.0}, 30)
    slack.status("crashed", {}, 30)
    (message,) = webhook.ends
    shown = "\n".join(texts(message))
    for fact in ("rldk healthy: run finished", "Finished, step 30. No alert so far.", "0.25", "grpo"):
        assert fact in shown
    silent = notifier(webhook, messages="alerts")
    silent.status("finished", {}, 30)
    assert webhook.requests == 1
    assert SlackNotifier.resume(silent.address(), silent.secrets()).address()["messages"] == "alerts"


def test_it_fires_again_after_it_ended(webhook: Webhook, make_alert: Callable[..., Alert]) -> None:
    slack = notifier(webhook)
    for state, severity in [
        ("firing", "warning"),
        ("firing", "critical"),
        ("firing", "critical"),
        ("resolved", "critical"),
        ("firing", "warning"),
    ]:
        slack.alert(make_alert(state=state, severity=severity))
    assert len(webhook.messages) == 4
    slack.close()


def test_mild_alerts_stay_out_of_the_channel(webhook: Webhook, make_alert: Callable[..., Alert]) -> None:
    slack = notifier(webhook)
    slack.alert(make_alert("reward.saturated", severity="info"))
    assert webhook.requests == 0
    slack.close()
    slack = notifier(webhook, min_severity="info")
    slack.alert(make_alert("reward.saturated", severity="info"))
    assert webhook.requests == 1
    slack.close()


def test_end_of_an_alert_from_before_a_resume_is_told(webhook: Webhook, make_alert: Callable[..., Alert]) -> None:
    slack = notifier(webhook)
    slack.alert(make_alert(state="resolved"))
    assert len(webhook.messages) == 1
    slack.close()


def test_one_that_flaps_is_told_once(make_alert: Callable[..., Alert]) -> None:
    slack = SlackNotifier(URL)
    with responses.RequestsMock() as server:
        server.post(URL, body="ok")
        for times in range(1, 18):
            for state in ("firing", "resolved"):
                slack.alert(make_alert(state=state, step=10 * times, times=times, notify=times == 1))
        worse = make_alert(severity="critical", step=200, times=18, consequences=("kl.spike",))
        slack.alert(worse)
        assert len(server.calls) == 3


def test_address_from_the_environment(webhook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="RLDK_SLACK_WEBHOOK_URL"):
        SlackNotifier()
    monkeypatch.setenv("RLDK_SLACK_WEBHOOK_URL", webhook.url)
    with pytest.raises(ValueError, match="on this machine"):
        SlackNotifier()
    monkeypatch.setenv("RLDK_ALLOW_LOOPBACK_WEBHOOK", "1")
    slack = SlackNotifier()
    slack.alert(Alert("kl.high", "warning", "firing", 1, 1, None, None, "m", "a"))
    assert len(webhook.messages) == 1
    slack.close()


def test_the_digests_of_two_addresses_of_the_environment_are_two(
    webhook: Webhook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLDK_ALLOW_LOOPBACK_WEBHOOK", "1")
    for url in (webhook.url, f"{webhook.url}-other"):
        monkeypatch.setenv("RLDK_SLACK_WEBHOOK_URL", url)
        first = SlackNotifier(messages=f"digest:600:{tmp_path}")
        for secrets in (first.secrets(), {}):  # those of the courier, and of `sync`
            SlackNotifier.resume(first.address(), secrets).status("finished", {}, 30)
    assert sorted(path.read_text().count("run finished") for path in tmp_path.rglob("waiting.jsonl")) == [2, 2]


def test_links_to_the_first_run_that_has_a_page(webhook: Webhook, make_alert: Callable[..., Alert]) -> None:
    class Paged(InMemoryTracker):
        page: str | None = None

        def url(self) -> str | None:
            return self.page

    without, later = Paged(), Paged()
    slack = notifier(webhook)
    slack.link_to([without, later, slack])
    later.page = "https://host/run"
    slack.alert(make_alert())
    assert "<https://host/run|the run>" in "\n".join(texts(webhook.messages[0]))
    slack.close()


def test_another_process_goes_on_with_the_channel(webhook: Webhook, make_alert: Callable[..., Alert]) -> None:
    first = notifier(webhook, min_severity="warning")
    first.link_to_pages([lambda: "https://host/run"])
    assert TOKEN not in json.dumps(dict(first.address()))
    assert first.address() == {"min_severity": "warning"}
    second = SlackNotifier.resume(first.address(), first.secrets())
    second.restore([("alert", (make_alert(),)), ("log", ({}, 1)), ("alert", (make_alert("a.mild", severity="info"),))])
    second.alert(make_alert())
    assert webhook.requests == 0, "the channel knows that it fires"
    second.alert(make_alert(state="resolved"))
    assert "https://host/run" in "\n".join(texts(webhook.messages[0]))


def test_the_variable_is_named_and_not_its_value(webhook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLDK_SLACK_WEBHOOK_URL", URL)
    assert SlackNotifier().address()["environment"] == "RLDK_SLACK_WEBHOOK_URL"
    assert SlackNotifier.resume(SlackNotifier().address(), {}).secrets()["url"] == URL


def test_a_strangers_text_cannot_steer_slack(make_alert: Callable[..., Alert]) -> None:
    nasty = "<!channel> <https://evil.example|click> & done"
    alert = make_alert(rule=f"x.{nasty}", message=nasty, advice=nasty, evidence={"prompt": "TOP SECRET PROMPT"})
    payload = slack_payload(alert_message(alert, nasty, "https://host/#/runs/1?a=1&b=<2>|3"))
    for text in texts(payload):
        assert "<!channel" not in text or text == payload["blocks"][0]["text"]["text"]
        assert "<https://evil" not in text or text == payload["blocks"][0]["text"]["text"]
    # A header is plain text, in which Slack reads no markup.
    assert payload["blocks"][0]["text"]["type"] == "plain_text"
    assert "TOP SECRET" not in json.dumps(payload)
    link = payload["blocks"][-1]["elements"][0]["text"]
    assert link.startswith("<https://host/#/runs/1?a=1&amp;b=%3C2%3E%7C3|")
    assert link.count("<") == link.count(">") == link.count("|") == 1


def test_a_link_must_be_a_page(make_alert: Callable[..., Alert]) -> None:
    for url in (None, "javascript:alert(1)", "file:///x"):
        assert slack_payload(alert_message(make_alert(), "name", url))["blocks"][-1]["elements"][0]["text"] == "name"


def test_limits_of_block_kit(make_alert: Callable[..., Alert]) -> None:
    """https://api.slack.com/reference/block-kit/blocks: header 150, section text 3000, field 2000 characters."""
    alert = make_alert(rule="r" * 500, message="<" * 9000 + "\n." * 99, advice="&" * 9000)
    payload = slack_payload(alert_message(alert, "<" * 9000, None))
    assert len(payload["blocks"]) <= 50
    assert len(payload["blocks"][0]["text"]["text"]) <= 150
    for block in payload["blocks"][1:]:
        assert len(block.get("text", {}).get("text", "")) <= 3000
        for field in block.get("fields", []):
            assert len(field["text"]) <= 2000
    unusual = slack_payload(alert_message(make_alert(value=math.nan, threshold=None, message=""), None, None))
    assert "nan" in json.dumps(unusual)
    assert all(text for text in texts(unusual))
