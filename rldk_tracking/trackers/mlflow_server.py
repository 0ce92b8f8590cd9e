"""What stands between a tracker and an MLflow store: its address, whether it answers, and what its refusals mean."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import requests

from rldk_tracking.messages.packages import install_line
from rldk_tracking.trackers.base import RefusedError, RejectedError, UnavailableError

logger = logging.getLogger(__name__)

URI_ADVICE = (
    "MLflow prints the address with it when a run ends, and W&B keeps what is printed. Set MLFLOW_TRACKING_USERNAME "
    "and MLFLOW_TRACKING_PASSWORD, and leave both out of the address."
)


def servers_only() -> str:
    """What is said to a user of mlflow-skinny who names another store."""
    return f"mlflow-skinny writes to servers alone; for any other store: {install_line('mlflow')}"


_HOPELESS = frozenset(
    {
        "INVALID_PARAMETER_VALUE",
        "RESOURCE_DOES_NOT_EXIST",
        "INVALID_STATE",
        "FEATURE_DISABLED",
        "NOT_IMPLEMENTED",
        "ENDPOINT_NOT_FOUND",
        "MALFORMED_REQUEST",
    }
)
"""MLflow's error codes that the same call gets again. Permissions are not among them: they can be given."""
_CREDENTIALS = frozenset({"PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED"})
_NO_CREDENTIALS = ("error code 401", "error code 403")
_NEVER = ("error code 413", "unique constraint", "duplicate entry")
"""In the message of a refusal that the same call gets again: words of the server, of sqlite and Postgres, of MySQL."""
_FRESH_S = 0.5
"""For so long an answer of the server holds."""
_TIMEOUT_S = (3.05, 5)


class Server:
    """An MLflow server that is asked before each call whether it is there.

    MLflow's own retries keep a call to a dead server for minutes (246 s by default), which is too long to learn that it
    is dead. And a proxy that answers everything with a page of its own would be told rows that nobody keeps.

    Args:
        place: its address without credentials.
    """

    def __init__(self, place: str) -> None:
        self.place = place.rstrip("/")
        self._session = requests.Session()
        self._answered = -_FRESH_S
        self._was_there = False

    def knock(self) -> bool:
        """Ask whether it is there.

        Returns:
            Whether it was there the last time too; else it may be another one now.

        Raises:
            UnavailableError: no MLflow server answers within seconds, or one says that it cannot now.
        """
        if time.monotonic() - self._answered < _FRESH_S:
            return True
        before, self._was_there = self._was_there, False
        reason = self._problem()
        if reason is not None:
            raise UnavailableError(f"the MLflow server at {self.place} does not take anything now ({reason})")
        self._was_there, self._answered = True, time.monotonic()
        return before

    def _problem(self) -> str | None:
        try:
            health = self._get("health")
            if health.status_code == 429 or health.status_code >= 500:
                return f"HTTP {health.status_code}"
            if health.status_code == 200 and health.text.strip() == "OK":
                return None
            version = self._get("version")
        except requests.exceptions.SSLError:
            # It speaks, if not to us: MLflow has its own settings for certificates.
            return None
        except requests.exceptions.RequestException as fault:
            return type(fault).__name__
        if version.status_code == 200 and version.text.strip()[:1].isdigit() and len(version.text) < 40:
            return None
        # A gateway may keep both addresses to itself; then MLflow's client finds out what is behind it.
        if health.status_code in (401, 403, 404) and version.status_code in (401, 403, 404):
            return None
        return "what answers is not MLflow"

    def _get(self, path: str) -> requests.Response:
        return self._session.get(f"{self.place}/{path}", timeout=_TIMEOUT_S, allow_redirects=False)


@contextmanager
def translated(mlflow: Any) -> Iterator[None]:
    """MLflow's exceptions as those of `trackers.base`."""
    try:
        yield
    except mlflow.exceptions.MlflowException as error:
        if lacks_store(error):
            raise RejectedError(servers_only()) from error
        text = str(error).lower()
        kind: type[Exception] = UnavailableError
        if str(error.error_code) in _CREDENTIALS or any(sign in text for sign in _NO_CREDENTIALS):
            kind = RefusedError
        # Too large, or at odds with what the store holds already: neither will pass later.
        # What a trigger or a full disk refuses may pass later, and some stores call that an IntegrityError too.
        elif any(sign in text for sign in _NEVER) or str(error.error_code) in _HOPELESS:
            kind = RejectedError
        raise kind(f"{error.error_code}: {error}") from error


def lacks_store(error: Exception) -> bool:
    """Whether MLflow has no store for an address, as `mlflow-skinny` has none but servers."""
    return type(error).__name__.startswith("Unsupported")


def is_http(uri: str | None) -> bool:
    """Whether a tracking address is that of a server that speaks http."""
    return uri is not None and uri.startswith(("http://", "https://"))


def without_credentials(uri: str) -> str:
    """An address without user and password."""
    parts = urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def has_password(uri: str) -> bool:
    """Whether the address of a server holds a password."""
    try:
        return is_http(uri) and bool(urlsplit(uri).password)
    except ValueError:  # no address; MLflow says so
        return False


def check_uri(uri: str) -> None:
    """Warn, once in a process, where the address of a server holds a password."""
    if has_password(uri):
        _warn_of_password()


@cache
def _warn_of_password() -> None:
    logger.warning("rldk: MLflow's tracking address holds a password. %s", URI_ADVICE)


def absolute(uri: str) -> str:
    """A tracking address that means the same in a process with another working folder."""
    if uri.startswith("sqlite:///"):
        path, mark, query = uri.removeprefix("sqlite:///").partition("?")
        return f"sqlite:///{Path(path).absolute()}{mark}{query}" if path and path != ":memory:" else uri
    if uri.startswith("file:") and not uri.startswith("file:/"):
        return Path(uri.removeprefix("file:")).absolute().as_uri()
    if uri and "://" not in uri and not uri.startswith(("file:", "databricks", "uc", "arn:")):
        return Path(uri).absolute().as_uri()
    return uri


def local_store(uri: str) -> Path | None:
    """Where on this disk a store's address leads; None for a server or another database."""
    for prefix in ("sqlite:///", "file://", "file:"):
        if uri.startswith(prefix):
            return Path(uri.removeprefix(prefix).partition("?")[0])
    return None if "://" in uri or uri.startswith("databricks") else Path(uri)
