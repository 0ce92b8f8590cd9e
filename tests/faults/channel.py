"""A Slack channel on loopback, and what people read there."""

from __future__ import annotations

from tests.trackers.test_slack import Webhook


class Channel(Webhook):
    """An incoming webhook that takes every message."""

    def titles(self, rule: str) -> list[str]:
        """The titles of the messages about a rule, such as "rldk critical: run.crashed"."""
        titles = [str(message["blocks"][0]["text"]["text"]) for message in self.messages]
        return [title for title in titles if title.endswith(f": {rule}")]

    def texts(self, rule: str) -> list[str]:
        """The plain texts of the messages about a rule."""
        return [str(message["text"]) for message in self.messages if rule in message["blocks"][0]["text"]["text"]]
