"""Slack: one message when an alert fires, one when it ends, through an incoming webhook."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from rldk_tracking.health.alert import SEVERITIES, Alert, Severity
from rldk_tracking.messages.arguments import word
from rldk_tracking.trackers.backend import Backend
from rldk_tracking.trackers.base import Tracker
from rldk_tracking.trackers.notifier import Notifier

ENVIRONMENT = "RLDK_SLACK_WEBHOOK_URL"
LONGEST_TEXT = 400
"""Characters of one stranger's text. Each may grow to five by escaping, and a field of Block Kit holds 2000."""


class SlackNotifier(Notifier):
    """Posts alerts to an incoming webhook. Series do not go there.

    Args:
        webhook_url: `https://hooks.slack.com/services/...`; without it, `RLDK_SLACK_WEBHOOK_URL`.
        min_severity: alerts below it are not sent.
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
        retries: int = 4,
        backoff: float = 1.0,
    ) -> None:
        word("min_severity", min_severity, SEVERITIES)
        super().__init__(webhook_url, allow_loopback=allow_loopback, retries=retries, backoff=backoff)
        self._from_environment = not webhook_url
        self._min_severity: Severity = min_severity
        self._pages: list[Callable[[], str | None]] = []
        self._known_page: str | None = None

    def __repr__(self) -> str:
        return f"SlackNotifier(webhook_url=***, min_severity={self._min_severity!r})"

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_pages": []}

    def link_to(self, trackers: Iterable[Tracker]) -> None:
        """Messages link to the run's page in the first of these trackers that has one when the message is sent."""
        self.link_to_pages(tracker.url for tracker in trackers if tracker is not self)

    def link_to_pages(self, pages: Iterable[Callable[[], str | None]]) -> None:
        """The same by functions that give a page's address, or None as long as there is none."""
        self._pages = list(pages)

    @classmethod
    def resume(cls, to: Mapping[str, str], secrets: Mapping[str, str]) -> SlackNotifier:
        """A notifier for another process's channel. Repetitions are left to the caller."""
        severity = to.get("min_severity", "warning")
        notifier = cls(
            secrets.get("url"),
            allow_loopback="allow_loopback" in secrets,
            min_severity=next((known for known in SEVERITIES if known == severity), "warning"),
            retries=0,
        )
        notifier._known_page = secrets.get("page")
        return notifier

    def address(self) -> Mapping[str, str]:
        """Where the address of the webhook is to be found, not what it is."""
        place = {"environment": self.environment} if self._from_environment else {}
        return place | {"min_severity": self._min_severity}

    def secrets(self) -> Mapping[str, str]:
        page = self._page()
        return {**super().secrets(), **({"page": page} if page else {})}

    def payload(self, alert: Alert) -> dict[str, Any]:
        return slack_payload(alert, self._page(), self.run_name)

    def _is_wanted(self, alert: Alert) -> bool:
        return SEVERITIES.index(alert.severity) >= SEVERITIES.index(self._min_severity)

    def _page(self) -> str | None:
        return next((address for page in self._pages if (address := page())), self._known_page)


class SlackBackend(Backend):
    """See `SlackNotifier`, which `slack=` and the environment bring."""

    kind = SlackNotifier
    title: ClassVar[str] = "Slack"

    def check(self, versions: Mapping[str, str | None]) -> tuple[bool, str]:
        """Whether a webhook is configured. Its address is a secret and is not shown."""
        if os.environ.get(ENVIRONMENT):
            return True, f"{ENVIRONMENT} is set"
        return False, f"{ENVIRONMENT} is not set; alerts go to the trackers only"


def slack_payload(alert: Alert, run_url: str | None, run_name: str | None) -> dict[str, Any]:
    """The message as Block Kit, with a plain text for notifications.

    Rule ids, messages and names may hold a stranger's text: all of it is escaped for Slack's markup. Evidence is left
    out, as it may quote samples.
    """
    run = run_name or "the run"
    facts = [f"*Rule*\n{_escape(alert.rule)}", f"*Step*\n{alert.step} (first seen at {alert.first_step})"]
    if alert.value is not None:
        facts.append(f"*Value*\n{alert.value:.6g}")
    if alert.threshold is not None:
        facts.append(f"*Threshold*\n{alert.threshold:.6g}")
    blocks: list[dict[str, Any]] = [
        {"type": "header", "text": {"type": "plain_text", "text": alert.title, "emoji": False}},
        {"type": "section", "text": _markdown(_escape(alert.message or alert.title))},
        {"type": "section", "fields": [_markdown(fact) for fact in facts]},
    ]
    if alert.advice and alert.state == "firing":
        blocks.append({"type": "section", "text": _markdown(f"*Advice*\n{_escape(alert.advice)}")})
    link = _link(run_url, run)
    blocks.append({"type": "context", "elements": [_markdown(link)]})
    text = f"{_escape(alert.title)} (step {alert.step}, {_escape(run)}): {_escape(alert.message)}"
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
