"""A Slack channel on loopback: an incoming webhook that keeps the messages."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Channel:
    """Takes every message.

    Attributes:
        url: of the webhook.
        messages: payloads, in order.
    """

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        channel = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                channel.messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *args: Any) -> None:
                return None

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/services/T0/B0/SECRET"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def titles(self, rule: str) -> list[str]:
        """The titles of the messages about a rule, such as "rldk critical: run.crashed"."""
        titles = [str(message["blocks"][0]["text"]["text"]) for message in self.messages]
        return [title for title in titles if title.endswith(f": {rule}")]

    def texts(self, rule: str) -> list[str]:
        """The plain texts of the messages about a rule."""
        return [str(message["text"]) for message in self.messages if rule in message["blocks"][0]["text"]["text"]]

    def close(self) -> None:
        """End it."""
        self.server.shutdown()
        self.server.server_close()
