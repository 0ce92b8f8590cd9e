"""A mail server on loopback, and channels of three kinds for apprise. `Webhook` serves the two by HTTP."""

from __future__ import annotations

import email
import socketserver
import threading
from collections.abc import Iterator
from email.message import Message
from typing import Any

import pytest

from tests.trackers.test_slack import Webhook


class Mailbox:
    """As much of SMTP as it takes to be sent mail. `answers` are said to RCPT before it starts to accept."""

    def __init__(self) -> None:
        self.mails: list[Message] = []
        self.answers: list[str] = []
        mailbox = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self.say("220 hello")
                while line := self.rfile.readline():
                    command = line.split()[0].upper() if line.split() else b""
                    if command == b"DATA":
                        self.say("354 go on")
                        lines = list(iter(self.rfile.readline, b".\r\n"))
                        mailbox.mails.append(email.message_from_bytes(b"".join(lines)))
                        self.say("250 taken")
                    elif command == b"RCPT" and mailbox.answers:
                        self.say(mailbox.answers.pop(0))
                    else:
                        self.say("221 bye" if command == b"QUIT" else "250 ok")

            def say(self, text: str) -> None:
                self.wfile.write(f"{text}\r\n".encode())

        socketserver.ThreadingTCPServer.daemon_threads = True
        self.server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        port = self.server.server_address[1]
        self.url = f"mailto://localhost:{port}?from=SECRET@host.test&to=people@host.test"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def titles(self) -> list[str]:
        return [str(mail["Subject"]) for mail in self.mails]

    def text(self, number: int) -> str:
        part = next(part for part in self.mails[number].walk() if part.get_content_type() == "text/plain")
        return bytes(part.get_payload(decode=True)).decode()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class Chat(Webhook):
    """A receiver by HTTP, with its address as apprise has it."""

    def __init__(self, scheme: str) -> None:
        super().__init__()
        self.address = f"{scheme}://127.0.0.1:{self.server.server_port}/SECRET"

    @property
    def titles(self) -> list[Any]:
        return [message["title"] for message in self.messages]


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    found = Mailbox()
    yield found
    found.close()


@pytest.fixture
def chat() -> Iterator[Chat]:
    found = Chat("json")
    yield found
    found.close()


@pytest.fixture
def ntfy() -> Iterator[Chat]:
    found = Chat("ntfy")
    yield found
    found.close()
