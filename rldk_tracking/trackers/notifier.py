"""Alerts by HTTP: one POST when a rule's alert fires or becomes more severe, one when it ends.

The address is a secret: whoever knows it can post. It is kept out of reprs, logs, exceptions and pickles. It must be
https; redirects are not followed, and prompts and completions never leave the machine this way.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import MaxRetryError
from urllib3.util.retry import Retry

from rldk_tracking.health.alert import Severity
from rldk_tracking.messages.arguments import flag, number, whole_number
from rldk_tracking.trackers.base import LostAnswerError, RejectedError, UnavailableError
from rldk_tracking.trackers.channel import Channel

LOOPBACK_ENVIRONMENT = "RLDK_ALLOW_LOOPBACK_WEBHOOK"

_TIMEOUT = (5.0, 10.0)
_LONGEST_RETRY_AFTER = 120
URLLIB3_LOGGERS = ("urllib3.connectionpool", "urllib3.util.retry")


class Notifier(Channel):
    """Posts messages to one address.

    Args:
        address: `https://...`.
        allow_loopback: let the address be plain http on this machine, for tests and relays; also by
            `RLDK_ALLOW_LOOPBACK_WEBHOOK=1`.
        retries: how often a request is repeated that was not accepted (429, 5xx, no connection).
        backoff: seconds before the second repetition; doubled at each further one. Retry-After goes first.
        messages, min_severity: as for `Channel`.

    Raises:
        ValueError: no address, or one that is not https. The message does not quote it.
        TypeError: an argument is of another type.
    """

    service: ClassVar[str]
    """What is posted to, in messages."""
    environment: str = ""
    """The variable that holds the address where none is given; "" for none."""

    def __init__(
        self,
        address: str | None,
        *,
        allow_loopback: bool,
        retries: int,
        backoff: float,
        messages: str | None = None,
        min_severity: Severity = "warning",
    ) -> None:
        super().__init__(messages, min_severity)
        flag("allow_loopback", allow_loopback)
        whole_number("retries", retries, low=0)
        number("backoff", backoff, low=0)
        if address is not None and not isinstance(address, str):
            raise TypeError(
                f"the {self.service}'s address must be a string, got a value of type {type(address).__name__}."
            )
        url = address or self._address_around()
        allow_loopback = allow_loopback or os.environ.get(LOOPBACK_ENVIRONMENT) == "1"
        problem = _problem(url, allow_loopback, self.service, type(self).environment)
        if problem is not None:
            raise ValueError(problem)
        self._url = Secret(url)
        self._allow_loopback = allow_loopback
        self._retries = retries
        self._backoff = backoff

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_url": Secret("")}

    def secrets(self) -> Mapping[str, str]:
        url = self._url.reveal() or self._address_around()
        return {**super().secrets(), "url": url} | ({"allow_loopback": "1"} if self._allow_loopback else {})

    def _address_around(self) -> str:
        return os.environ.get(self.environment, "") if self.environment else ""

    def _post(self, payload: Mapping[str, Any]) -> None:
        url = self._url.reveal() or self._address_around()
        if not url:
            hint = f"; set {self.environment}" if self.environment else ""
            raise RejectedError(f"the {self.service}'s address is not known in this process{hint}")
        # The exceptions of requests quote the address. They are left behind before ours is raised, so that no traceback
        # has them as its context.
        fault: Exception | None = None
        status = 0
        with discreet_logs(*URLLIB3_LOGGERS):
            try:
                # A session for each message: alerts are rare, and a kept connection may be dead by the next one.
                with self._new_session() as session:
                    answer = session.post(url, json=dict(payload), timeout=_TIMEOUT, allow_redirects=False)
                status = answer.status_code
            except requests.exceptions.RequestException as error:
                if may_have_arrived(error):
                    fault = LostAnswerError(
                        f"the {self.service} gave no answer; the message may have arrived and is not repeated"
                    )
                else:
                    fault = UnavailableError(f"the {self.service} is not reached ({type(error).__name__})")
        if fault is not None:
            raise fault
        if 200 <= status < 300:
            return
        if status == 429 or status >= 500:
            raise UnavailableError(f"the {self.service} does not accept the message now (HTTP {status})")
        raise RejectedError(f"the {self.service} refuses the message (HTTP {status})")

    def _new_session(self) -> requests.Session:
        # A request whose answer is lost is not repeated (`read=False`): two messages about one alert are one too many.
        retry = Retry(
            total=self._retries,
            read=False,
            backoff_factor=self._backoff,
            status_forcelist=(429, 500, 502, 503, 504),
            allowed_methods={"POST"},
            respect_retry_after_header=True,
            raise_on_status=False,
        )
        # Where urllib3 knows this limit, a server cannot put the thread to sleep for hours.
        if hasattr(retry, "retry_after_max"):
            retry.retry_after_max = _LONGEST_RETRY_AFTER
        session = requests.Session()
        for scheme in ("https://", "http://"):
            session.mount(scheme, HTTPAdapter(max_retries=retry))
        return session


def may_have_arrived(error: requests.exceptions.RequestException) -> bool:
    """Whether the request was sent before it failed: it broke off, or nobody answered in time."""
    if isinstance(error, requests.exceptions.Timeout):
        return isinstance(error, requests.exceptions.ReadTimeout)
    # urllib3 repeats what failed while connecting, and gives up with MaxRetryError; the rest it raises as it is.
    connecting = bool(error.args) and isinstance(error.args[0], MaxRetryError)
    return type(error) is requests.exceptions.ConnectionError and not connecting


class Secret:
    """A string that shows itself to nobody who does not ask for it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "***"

    def __reduce__(self) -> tuple[type[Secret], tuple[str]]:
        return Secret, ("",)

    def __deepcopy__(self, memo: dict[int, Any]) -> Secret:
        return self


def _problem(url: str, allow_loopback: bool, service: str, environment: str) -> str | None:
    """What is wrong with a webhook's address, in words that do not quote it."""
    if not url:
        return f"the {service} needs an address{f': as argument or in {environment}' if environment else ''}"
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return f"the {service}'s address cannot be read"
    if not host:
        return f"the {service}'s address has no host"
    if _is_loopback(host):
        if parts.scheme in ("http", "https") and allow_loopback:
            return None
        return f"the {service} is on this machine; allow_loopback=True or {LOOPBACK_ENVIRONMENT}=1 permits that"
    return None if parts.scheme == "https" else f"the {service}'s address must begin with https://"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


@contextmanager
def discreet_logs(*names: str) -> Iterator[None]:
    """Drop what these loggers are told in this thread: urllib3's words on a request that it repeats quote its address.

    Args:
        names: of the loggers.
    """
    thread = threading.get_ident()

    def is_of_another(record: logging.LogRecord) -> bool:
        return record.thread != thread

    loggers = [logging.getLogger(name) for name in names]
    for logger in loggers:
        logger.addFilter(is_of_another)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_of_another)
