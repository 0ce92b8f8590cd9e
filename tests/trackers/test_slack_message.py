from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

from rldk_tracking.health.alert import Alert
from rldk_tracking.trackers.slack_message import slack_payload


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


def test_a_strangers_text_cannot_steer_slack(make_alert: Callable[..., Alert]) -> None:
    nasty = "<!channel> <https://evil.example|click> & done"
    payload = slack_payload(
        make_alert(rule=f"x.{nasty}", message=nasty, advice=nasty, evidence={"prompt": "TOP SECRET PROMPT"}),
        "https://host/#/runs/1?a=1&b=<2>|3",
        nasty,
    )
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
        assert slack_payload(make_alert(), url, "name")["blocks"][-1]["elements"][0]["text"] == "name"


def test_limits_of_block_kit(make_alert: Callable[..., Alert]) -> None:
    """https://api.slack.com/reference/block-kit/blocks: header 150, section text 3000, field 2000 characters."""
    payload = slack_payload(make_alert(rule="r" * 500, message="<" * 9000, advice="&" * 9000), None, "<" * 9000)
    assert len(payload["blocks"][0]["text"]["text"]) <= 150
    for block in payload["blocks"][1:]:
        assert len(block.get("text", {}).get("text", "")) <= 3000
        for field in block.get("fields", []):
            assert len(field["text"]) <= 2000
    unusual = slack_payload(make_alert(value=math.nan, threshold=None, message=""), None, None)
    assert "nan" in json.dumps(unusual)
    assert all(text for text in texts(unusual))
