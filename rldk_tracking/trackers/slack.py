"""Slack: one message when an alert fires, one when it ends, through an incoming webhook.

The webhook's address is a secret: whoever knows it can post. It is kept out of reprs, logs, exceptions and pickles.
Messages hold the alert's own words and numbers; prompts and completions never leave the machine this way.
"""

from __future__ import annotations

import ipaddress
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import MaxRetryError
from urllib3.util.retry import Retry

from rldk_tracking.health.alert import SEVERITIES, Alert, Severity
from rldk_tracking.messages.arguments import flag, number, whole_number, word
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.base import LostAnswerError, RejectedError, Tracker, UnavailableError
from rldk_tracking.trackers.records import Call
from rldk_tracking.trackers.slack_message import slack_payload

ENVIRONMENT = "RLDK_SLACK_WEBHOOK_URL"
LOOPBACK_ENVIRONMENT = "RLDK_ALLOW_LOOPBACK_WEBHOOK"

_TIMEOUT = (5.0, 10.0)
_LONGEST_RETRY_AFTER = 120
_URLLIB3_LOGGERS = ("urllib3.connectionpool", "urllib3.util.retry")


class SlackNotifier(Tracker):
    """Posts alerts to an incoming webhook. Series do not go there.

    Args:
        webhook_url: `https://hooks.slack.com/services/...`; without it, `RLDK_SLACK_WEBHOOK_URL`.
        allow_loopback: let the address be plain http on this machine, for tests and relays; also by
            `RLDK_ALLOW_LOOPBACK_WEBHOOK=1`.
        min_severity: alerts below it are not sent.
        retries: how often a request is repeated that was not accepted (429, 5xx, no connection).
        backoff: seconds before the second repetition; doubled at each further one. Slack's Retry-After goes first.

    Raises:
        ValueError: no address, or one that is not https. The message does not quote it.
        TypeError: an argument is of another type.
    """

    name: ClassVar[str] = "slack"
    in_process: ClassVar[bool] = False
    service: ClassVar[str] = "Slack webhook"
    environment: ClassVar[str] = ENVIRONMENT
    """The variable that holds the address where none is given; "" for none."""
    takes_rows: ClassVar[bool] = False
    repeatable: ClassVar[bool] = False

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
        flag("allow_loopback", allow_loopback)
        whole_number("retries", retries, low=0)
        number("backoff", backoff, low=0)
        if webhook_url is not None and not isinstance(webhook_url, str):
            raise TypeError(
                f"the {self.service}'s address must be a string, got a value of type {type(webhook_url).__name__}."
            )
        url = webhook_url or self._address_around()
        self._from_environment = not webhook_url
        allow_loopback = allow_loopback or os.environ.get(LOOPBACK_ENVIRONMENT) == "1"
        problem = _problem(url, allow_loopback, self.service, self.environment)
        if problem is not None:
            raise ValueError(problem)
        self._webhook = _Secret(url)
        self._min_severity: Severity = min_severity
        self._allow_loopback = allow_loopback
        self._retries = retries
        self._backoff = backoff
        self._sent: dict[str, tuple[str, str]] = {}
        self.run_name: str | None = None
        self._pages: list[Callable[[], str | None]] = []
        self._known_page: str | None = None

    def __repr__(self) -> str:
        return f"SlackNotifier(webhook_url=***, min_severity={self._min_severity!r})"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_webhook": _Secret(""), "_pages": []}

    def link_to(self, trackers: Iterable[Tracker]) -> None:
        """Messages link to the run's page in the first of these trackers that has one when the message is sent."""
        self.link_to_pages(tracker.url for tracker in trackers if tracker is not self)

    def link_to_pages(self, pages: Iterable[Callable[[], str | None]]) -> None:
        """The same by functions that give a page's address, or None as long as there is none."""
        self._pages = list(pages)

    def open(self, run: RunInfo) -> None:
        self.run_name = run.name

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
        place = {"environment": self.environment} if self.environment and self._from_environment else {}
        return place | {"min_severity": self._min_severity}

    def secrets(self) -> Mapping[str, str]:
        page = self._page()
        return (
            {"url": self._webhook.reveal() or self._address_around()}
            | ({"allow_loopback": "1"} if self._allow_loopback else {})
            | ({"page": page} if page else {})
        )

    def restore(self, past: Iterable[Call]) -> None:
        for method, args in past:
            if method == "alert" and args[0].notify and self._is_wanted(args[0]):
                self._sent[args[0].rule] = (args[0].state, args[0].severity)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Series are for trackers; a channel gets alerts."""

    def alert(self, alert: Alert) -> None:
        """Post it, unless it is too mild, not for people (`Alert.notify`), or the channel knows already."""
        news = (alert.state, alert.severity)
        if not alert.notify or not self._is_wanted(alert) or self._sent.get(alert.rule) == news:
            return
        self._post(self.payload(alert))
        self._sent[alert.rule] = news

    def payload(self, alert: Alert) -> dict[str, Any]:
        """The body of the request."""
        return slack_payload(alert, self._page(), self.run_name)

    def close(self) -> None:
        self._sent.clear()

    def _is_wanted(self, alert: Alert) -> bool:
        return SEVERITIES.index(alert.severity) >= SEVERITIES.index(self._min_severity)

    def _address_around(self) -> str:
        return os.environ.get(self.environment, "") if self.environment else ""

    def _page(self) -> str | None:
        return next((address for page in self._pages if (address := page())), self._known_page)

    def _post(self, payload: Mapping[str, Any]) -> None:
        url = self._webhook.reveal() or self._address_around()
        if not url:
            hint = f"; set {self.environment}" if self.environment else ""
            raise RejectedError(f"the {self.service}'s address is not known in this process{hint}")
        # The exceptions of requests quote the address. They are left behind before ours is raised, so that no traceback
        # has them as its context.
        fault: Exception | None = None
        status = 0
        with _discreet_logs(url):
            try:
                # A session for each message: alerts are rare, and a kept connection may be dead by the next one.
                with self._new_session() as session:
                    answer = session.post(url, json=dict(payload), timeout=_TIMEOUT, allow_redirects=False)
                status = answer.status_code
            except requests.exceptions.RequestException as error:
                if _may_have_arrived(error):
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
        session.mount("https://", HTTPAdapter(max_retries=retry))
        session.mount("http://", HTTPAdapter(max_retries=retry))
        return session


def _may_have_arrived(error: requests.exceptions.RequestException) -> bool:
    """Whether the request was sent before it failed: it broke off, or nobody answered in time."""
    if isinstance(error, requests.exceptions.Timeout):
        return isinstance(error, requests.exceptions.ReadTimeout)
    # urllib3 repeats what failed while connecting, and gives up with MaxRetryError; the rest it raises as it is.
    connecting = bool(error.args) and isinstance(error.args[0], MaxRetryError)
    return type(error) is requests.exceptions.ConnectionError and not connecting


class _Secret:
    """A string that shows itself to nobody who does not ask for it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "***"

    def __reduce__(self) -> tuple[type[_Secret], tuple[str]]:
        return _Secret, ("",)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Secret:
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
def _discreet_logs(url: str) -> Iterator[None]:
    """While a request is under way, drop what urllib3 logs about it: its retries quote the address, as warnings."""
    parts = urlsplit(url)
    secrets = [
        part for part in (url, parts.path + (f"?{parts.query}" if parts.query else ""), parts.path) if len(part) > 1
    ]

    def discreet(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return not any(secret in message for secret in secrets)

    loggers = [logging.getLogger(name) for name in _URLLIB3_LOGGERS]
    for logger in loggers:
        logger.addFilter(discreet)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(discreet)
