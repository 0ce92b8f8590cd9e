"""Slack: a message when an alert fires, when it ends, and when the run does, through an incoming webhook."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar

from rldk_tracking.health.alert import SEVERITIES, Severity
from rldk_tracking.messages.arguments import word
from rldk_tracking.trackers.backend import Backend
from rldk_tracking.trackers.channel import Message
from rldk_tracking.trackers.notifier import Notifier

ENVIRONMENT = "RLDK_SLACK_WEBHOOK_URL"
LONGEST_TEXT = 400
"""Characters of one stranger's text. Each may grow to five by escaping, and a field of Block Kit holds 2000."""

MOST_LINES = 45
"""A message holds 50 blocks."""


class SlackNotifier(Notifier):
    """Posts a run's messages to an incoming webhook. Series do not go there.

    Args:
        webhook_url: `https://hooks.slack.com/services/...`; without it, `RLDK_SLACK_WEBHOOK_URL`.
        min_severity: alerts below it are not sent.
        messages: which messages, as words, see `rldk_tracking.trackers.channel`; by default `RLDK_NOTIFY_MESSAGES`.
        allow_loopback: as for `Notifier`.
        retries: likewise.
        backoff: likewise.

    Raises:
        ValueError: no address, or one that is not https. The message does not quote it.
        TypeError: an argument is of another type.

    Examples:
        >>> from rldk_tracking import RLDKCallback, SlackNotifier
        >>> notifier = SlackNotifier("https://hooks.slack.com/services/T/B/x", min_severity="critical")
        >>> callback = RLDKCallback(slack=notifier)
        >>> notifier  # the address is a secret
        SlackNotifier(webhook_url=***, min_severity='critical')
    """

    name: ClassVar[str] = "slack"
    service: ClassVar[str] = "Slack webhook"
    environment = ENVIRONMENT

    def __init__(
        self,
        webhook_url: str | None = None,
        *,
        allow_loopback: bool = False,
        min_severity: Severity = "warning",
        messages: str | None = None,
        retries: int = 4,
        backoff: float = 1.0,
    ) -> None:
        word("min_severity", min_severity, SEVERITIES)
        super().__init__(
            webhook_url,
            allow_loopback=allow_loopback,
            retries=retries,
            backoff=backoff,
            messages=messages,
            min_severity=min_severity,
        )
        self._from_environment = not webhook_url

    def __repr__(self) -> str:
        return f"SlackNotifier(webhook_url=***, min_severity={self._min_severity!r})"

    @classmethod
    def resume(cls, to: Mapping[str, str], secrets: Mapping[str, str]) -> SlackNotifier:
        """A notifier for another process's channel. Repetitions are left to the caller."""
        severity = to.get("min_severity", "warning")
        notifier = cls(
            secrets.get("url"),
            allow_loopback="allow_loopback" in secrets,
            min_severity=next((known for known in SEVERITIES if known == severity), "warning"),
            messages=to.get("messages", ""),
            retries=0,
        )
        notifier._continue(secrets, notifier._url.reveal())
        return notifier

    def address(self) -> Mapping[str, str]:
        """Where the address of the webhook is to be found, not what it is."""
        place = {"environment": self.environment} if self._from_environment else {}
        return {**super().address(), **place, "min_severity": self._min_severity}

    def send(self, message: Message) -> None:
        self._post(slack_payload(message))


class SlackBackend(Backend):
    """See `SlackNotifier`, which `slack=` and the environment bring."""

    kind = SlackNotifier
    title: ClassVar[str] = "Slack"

    def check(self, versions: Mapping[str, str | None]) -> tuple[bool, str]:
        """Whether a webhook is configured. Its address is a secret and is not shown."""
        if os.environ.get(ENVIRONMENT):
            return True, f"{ENVIRONMENT} is set"
        return False, f"{ENVIRONMENT} is not set; alerts go to the trackers only"


def slack_payload(message: Message) -> dict[str, Any]:
    """A message as Block Kit, with a plain text for notifications.

    Rule ids, messages and names may hold a stranger's text: all of it is escaped for Slack's markup.
    """
    blocks: list[dict[str, Any]] = [
        {"type": "header", "text": {"type": "plain_text", "text": message.title, "emoji": False}},
        *({"type": "section", "text": _markdown(_escape(line))} for line in message.text.splitlines()[:MOST_LINES]),
    ]
    if message.facts:
        facts = [_markdown(f"*{name}*\n{_escape(value)}") for name, value in message.facts]
        blocks.append({"type": "section", "fields": facts})
    if message.advice:
        blocks.append({"type": "section", "text": _markdown(f"*Advice*\n{_escape(message.advice)}")})
    blocks.append({"type": "context", "elements": [_markdown(_link(message.url, message.run))]})
    where = _escape(message.run) if message.step is None else f"step {message.step}, {_escape(message.run)}"
    text = f"{_escape(message.title)} ({where}): {_escape(message.text)}"
    return {"text": text, "blocks": blocks, "unfurl_links": False, "unfurl_media": False}


def _markdown(text: str) -> dict[str, Any]:
    # `verbatim` keeps Slack from making links and mentions out of plain words.
    return {"type": "mrkdwn", "text": text, "verbatim": True}


def _escape(text: str) -> str:
    """Slack's three control characters, https://api.slack.com/reference/surfaces/formatting#escaping."""
    text = text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _link(url: str | None, label: str) -> str:
    if url is None or not url.startswith(("http://", "https://")):
        return _escape(label)
    address = url.replace("&", "&amp;").replace("<", "%3C").replace(">", "%3E").replace("|", "%7C")
    return f"<{address}|{_escape(label).replace('|', '/')}>"
