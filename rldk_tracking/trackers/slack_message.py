"""The message that an alert becomes in Slack. Pure: nothing is sent from here."""

from __future__ import annotations

from typing import Any

from rldk_tracking.health.alert import Alert

LONGEST_TEXT = 400
"""Characters of one stranger's text. Each may grow to five by escaping, and a field of Block Kit holds 2000."""


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
