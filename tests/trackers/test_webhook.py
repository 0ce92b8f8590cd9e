from __future__ import annotations

from collections.abc import Callable

import pytest

from rldk_tracking.health.alert import Alert
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.base import RejectedError
from rldk_tracking.trackers.webhook import WebhookNotifier
from tests.trackers.test_slack import TOKEN, URL, Webhook, webhook

__all__ = ["webhook"]


def test_the_alerts_of_its_rules_arrive_as_json(webhook: Webhook, make_alert: Callable[..., Alert]) -> None:
    notifier = WebhookNotifier(webhook.url, rules=["kl.high"], allow_loopback=True)
    notifier.open(RunInfo(name="lunar"))
    fired = make_alert(rule="kl.high", evidence={"smoothed": float("inf"), "paid": 0.5})
    notifier.alert(fired)
    notifier.alert(fired)
    notifier.alert(make_alert(rule="grad.flow"))
    notifier.alert(make_alert(rule="kl.high", state="resolved"))
    first, second = webhook.messages
    assert first == {**fired.as_dict(), "evidence": {"smoothed": None, "paid": 0.5}, "run": "lunar"}
    assert (second["rule"], second["state"]) == ("kl.high", "resolved")


def test_the_address_is_shown_nowhere(webhook: Webhook, make_alert: Callable[..., Alert]) -> None:
    notifier = WebhookNotifier(webhook.url, rules=["kl.high"], allow_loopback=True)
    assert TOKEN not in repr(notifier)
    webhook.answers = [(403, {})]
    with pytest.raises(RejectedError, match=r"the webhook refuses the message \(HTTP 403\)") as refused:
        notifier.alert(make_alert(rule="kl.high"))
    assert TOKEN not in str(refused.value)


@pytest.mark.parametrize("address", ["", f"http://pager.example/{TOKEN}", f"http://127.0.0.1:1/{TOKEN}", "https://"])
def test_only_https_elsewhere(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLDK_SLACK_WEBHOOK_URL", URL)  # another service's, never this one's
    with pytest.raises(ValueError, match="webhook") as refused:
        WebhookNotifier(address, rules=["kl.high"])
    assert TOKEN not in str(refused.value)
