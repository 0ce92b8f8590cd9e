"""Any other channel: Discord, Teams, e-mail, Telegram and a hundred more, through apprise.

`RLDK_NOTIFY_URLS` holds addresses as apprise has them, between blanks or line ends. Words before one say which messages
go there, see `rldk_tracking.trackers.channel`: `critical,kl=discord://ID/TOKEN`. Each address is a channel of its own:
one that is away holds up no other, and an alert is not sent twice to those that have it.

The addresses are secrets. apprise is imported by the courier alone.
"""

from __future__ import annotations

import logging
import os
import re
import smtplib
import socket
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, ClassVar

import requests

from rldk_tracking.health.alert import Severity
from rldk_tracking.messages.arguments import nearest
from rldk_tracking.messages.packages import imported, install_line
from rldk_tracking.trackers.backend import Backend
from rldk_tracking.trackers.base import LostAnswerError, RejectedError, UnavailableError
from rldk_tracking.trackers.channel import Channel, Message
from rldk_tracking.trackers.notifier import URLLIB3_LOGGERS, Secret, discreet_logs, may_have_arrived

URLS = "RLDK_NOTIFY_URLS"
SERVICES = "https://appriseit.com/services"
LONGEST_TEXT = 400
"""Characters of one line of a message."""
PAUSE_S = 1.0
"""Seconds between two requests where apprise would wait longer. A run says little; what is too much is repeated."""
_ADDRESS = re.compile(r"(?:(?P<words>(?:(?!//)[\w.,:/~-])+)=)?(?P<url>[a-zA-Z][a-zA-Z0-9+.-]{0,19}://\S+)")
_STATUS = re.compile(r"\berror=(\d{3})\b")
_PASSING = (408, 425, 429)
_TYPES: Mapping[Severity, str] = {"info": "info", "warning": "warning", "critical": "failure"}
_FAULTS = (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)
"""Of a plugin that breaks. Its words may quote the address, and are left behind."""
_MENTION = re.compile(r"@|<(?=[!#])")


def channels(addresses: str | None = None, messages: str | None = None) -> list[AppriseNotifier]:
    """A notifier for each address.

    Args:
        addresses: with words before them; by default those in `RLDK_NOTIFY_URLS`.
        messages: words for those that have none, as for `Channel`.

    Raises:
        ValueError: one is no address, or its words mean nothing. The message does not quote it.
        ImportError: there are some, and apprise is not installed.
    """
    around = addresses is None
    entries = (os.environ.get(URLS, "") if addresses is None else addresses).split()
    found = [AppriseNotifier(entry, number, around, messages) for number, entry in enumerate(entries, 1)]
    if found and find_spec("apprise") is None:
        raise ImportError(f"{URLS} needs apprise: {install_line('notify')}")
    return found


class AppriseNotifier(Channel):
    """Sends a run's messages to one address of apprise's.

    Args:
        address: `discord://ID/TOKEN`, with words before it as in `critical,kl=discord://ID/TOKEN`.
        number: which of the addresses it is, for messages.
        from_environment: whether a later process finds it as this number of `RLDK_NOTIFY_URLS`.
        messages: words for an address that has none, as for `Channel`.

    Raises:
        ValueError: it is no address, or its words mean nothing. The message does not quote it.

    Examples:
        >>> AppriseNotifier("critical=discord://4711/secret")
        AppriseNotifier(address=***, messages='critical')
    """

    name: ClassVar[str] = "notify"

    def __init__(
        self, address: str, number: int = 1, from_environment: bool = False, messages: str | None = None
    ) -> None:
        self._service = f"channel {number}{f' of {URLS}' if from_environment else ''}"
        parts = _ADDRESS.fullmatch(address.strip())
        if parts is None:
            raise ValueError(f"{self._service} is no address: write discord://ID/TOKEN, or critical,kl=discord://...")
        try:
            super().__init__(parts["words"] or messages)
        except ValueError as error:
            raise ValueError(f"{self._service}: {error}") from None
        self._url = Secret(parts["url"])
        self._number, self._from_environment = number, from_environment
        self._plugin: Any = None

    def __repr__(self) -> str:
        return f"AppriseNotifier(address=***, messages={self._wanted.words!r})"

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_url": Secret(""), "_plugin": None}

    @classmethod
    def resume(cls, to: Mapping[str, str], secrets: Mapping[str, str]) -> AppriseNotifier:
        number, from_environment = int(to.get("number", "1")), "environment" in to
        entries = os.environ.get(URLS, "").split() if from_environment else []
        around = entries[number - 1] if number <= len(entries) else None
        url = secrets.get("url") or (around and _url_in(around))
        if not url:
            raise ValueError(f"channel {number} is not known here{f'; set {URLS}' if from_environment else ''}")
        notifier = cls(url, number, from_environment, to.get("messages", ""))
        notifier._continue(secrets, url)
        notifier._plugin = plugin(url, notifier._service)
        return notifier

    def address(self) -> Mapping[str, str]:
        """Where the address is to be found, not what it is."""
        place = {"environment": URLS} if self._from_environment else {}
        return {**super().address(), **place, "number": str(self._number)}

    def secrets(self) -> Mapping[str, str]:
        return {**super().secrets(), "url": self._url.reveal()}

    def send(self, message: Message) -> None:
        from apprise import NotifyFormat, NotifyType

        fault, said = None, _Said()
        self._plugin.logger = said
        kind, form = NotifyType(_TYPES[message.severity]), NotifyFormat.TEXT
        with discreet_logs("apprise", *URLLIB3_LOGGERS):
            try:
                was_taken = self._plugin.notify(
                    body=body_of(message), title=_harmless(message.title), notify_type=kind, body_format=form
                )
            except _FAULTS as error:
                broke = f"{self._service} breaks ({type(error).__name__}); the message is not repeated"
                was_taken, fault = False, LostAnswerError(broke)
        if not was_taken:
            raise fault or said.fault(self._service)


def plugin(url: str, service: str) -> Any:
    """apprise's part for an address.

    Raises:
        ValueError: apprise knows no such address. The message does not quote it.
        ImportError: apprise is not installed.
    """
    apprise = imported("apprise", service)
    # Nothing is written to this user's disk, nothing is followed to another host, and nothing is sent beside the text.
    asset = apprise.AppriseAsset(
        app_id="rldk_tracking", app_desc="rldk_tracking", async_mode=False, http_redirects=False, storage_mode="memory"
    )
    with discreet_logs("apprise"):
        made = apprise.Apprise.instantiate(url, asset=asset)
    if made is not None:
        made.request_rate_per_sec = min(made.request_rate_per_sec, PAUSE_S)
        return made
    scheme, known = url.partition("://")[0].lower(), sorted(apprise.manager_plugins.NotificationManager().schemas())
    if scheme in known:
        raise ValueError(f"{service} is no address that {scheme}:// can have, see {SERVICES}")
    hint = nearest(scheme, known)
    hint = hint if hint.endswith("?") else f", see {SERVICES}"  # there are hundreds
    raise ValueError(f"{service}: apprise knows no such scheme{hint}")


def body_of(message: Message) -> str:
    """A message as plain text, in which a stranger's text mentions nobody."""
    facts = "\n".join(f"{name}: {value}" for name, value in message.facts)
    where = " ".join(part for part in (message.run, message.url) if part)
    lines = [message.text, facts, f"Advice: {message.advice}" if message.advice else "", where]
    return "\n".join(_harmless(line) for text in lines for line in text.splitlines())


def _harmless(line: str) -> str:
    return _MENTION.sub("\\g<0>\u200b", line[:LONGEST_TEXT])


class _Said(logging.Logger):
    """What a plugin says of one message's requests, kept from every log: its answer is only yes or no."""

    def __init__(self) -> None:
        super().__init__("apprise", logging.INFO)
        self._has_sent = False
        self._status: int | None = None
        self._error: BaseException | None = None

    def handle(self, record: logging.LogRecord) -> None:
        """Take note of a request that was taken, an HTTP status, or the exception that the plugin is handling."""
        text = record.getMessage()
        if record.levelno == logging.INFO:
            self._has_sent |= "sent" in text.lower()
        elif status := _STATUS.search(text):
            self._status = int(status[1])
        else:
            self._error = sys.exc_info()[1] or self._error

    def fault(self, service: str) -> Exception:
        """Why a message was not taken: whether it may pass, and whether somebody has it already."""
        status, error = self._status, self._error
        if isinstance(error, smtplib.SMTPRecipientsRefused):
            status = next((code for code, _ in error.recipients.values()), None)
        elif isinstance(error, smtplib.SMTPResponseException):
            status = error.smtp_code
        if self._has_sent:
            return LostAnswerError(f"{service} took a part of the message; it is not repeated")
        if status is not None:
            passes = status // 100 == 4 if isinstance(error, smtplib.SMTPException) else status >= 500
            if passes or status in _PASSING:
                return UnavailableError(f"{service} does not accept the message now ({status})")
            redirected = ", a redirect, which is not followed" if 300 <= status < 400 else ""
            return RejectedError(f"{service} refuses the message ({status}{redirected})")
        if isinstance(error, OSError) and not isinstance(error, ValueError):  # both: an address that cannot be asked
            if _is_unconnected(error):
                return UnavailableError(f"{service} is not reached ({type(error).__name__})")
            return LostAnswerError(f"{service} gave no answer; the message may have arrived and is not repeated")
        # apprise keeps to itself why, and so whether a part was taken.
        return LostAnswerError(f"{service} did not take the message, or not all of it; it is not repeated")


def _is_unconnected(error: OSError) -> bool:
    """Whether there was no connection that a message could have gone through."""
    if isinstance(error, requests.exceptions.RequestException):
        return not may_have_arrived(error)
    return isinstance(error, (ConnectionRefusedError, socket.gaierror))


def _url_in(entry: str) -> str | None:
    parts = _ADDRESS.fullmatch(entry)
    return None if parts is None else parts["url"]


class NotifyBackend(Backend):
    """See `AppriseNotifier`, which the environment brings."""

    kind = AppriseNotifier
    title: ClassVar[str] = "Other channels"
    packages: ClassVar[tuple[str, ...]] = ("apprise",)
    extra: ClassVar[str] = "notify"

    def check(self, versions: Mapping[str, str | None]) -> tuple[bool, str]:
        """How many channels there are and what is wrong with them. No address is shown."""
        if not os.environ.get(URLS, "").split():
            return False, f"{URLS} is not set; it holds addresses for Discord, Teams, e-mail, Telegram and others"
        try:
            found = channels()
            for channel in found:
                plugin(channel.secrets()["url"], channel._service)
        except (ValueError, ImportError) as error:
            return False, str(error)
        return True, f"{len(found)} in {URLS}, which apprise can send to"
