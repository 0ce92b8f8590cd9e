"""Whether what answers is MLflow, and what its refusals mean."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rldk_tracking.messages.packages import install_line
from rldk_tracking.trackers import mlflow_server
from rldk_tracking.trackers.base import RefusedError, RejectedError, UnavailableError
from rldk_tracking.trackers.mlflow_server import (
    Server,
    absolute,
    check_uri,
    has_password,
    translated,
    without_credentials,
)

mlflow = pytest.importorskip("mlflow", reason="needs mlflow")
Answer = tuple[int, bytes]


@contextmanager
def answering(answer: Callable[[str], Answer]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answer(self.path)
            self.send_response(status)
            if status in (302, 307):
                self.send_header("Location", "http://127.0.0.1:9/elsewhere")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            return None

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    "answer",
    [
        lambda path: (200, b"OK") if path == "/health" else (500, b""),
        lambda path: (200, b"3.17.2") if path == "/version" else (404, b""),
        lambda path: (403, b"a gateway that keeps both addresses to itself"),
    ],
)
def test_what_may_be_mlflow(answer: Callable[[str], Answer]) -> None:
    with answering(answer) as place:
        Server(place).knock()


@pytest.mark.parametrize(
    "answer",
    [
        lambda path: (200, b"{}"),
        lambda path: (200, b"<html>welcome</html>"),
        lambda path: (503, b"later"),
        lambda path: (429, b"slow down"),
        lambda path: (302, b""),
        lambda path: (307, b""),
    ],
)
def test_what_is_not(answer: Callable[[str], Answer]) -> None:
    with answering(answer) as place, pytest.raises(UnavailableError, match="does not take anything now"):
        Server(place).knock()


def test_a_server_that_goes_is_noticed_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    alive = True
    with answering(lambda path: (200, b"OK") if alive else (200, b"{}")) as place:
        server = Server(place)
        server.knock()
        alive = False
        server.knock()  # the answer of a moment ago holds
        monkeypatch.setattr("rldk_tracking.trackers.mlflow_server._FRESH_S", 0.0)
        with pytest.raises(UnavailableError, match="not MLflow"):
            server.knock()


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [
        ("INVALID_PARAMETER_VALUE", "a bad key", RejectedError),
        ("INTERNAL_ERROR", "API request failed with error code 413", RejectedError),
        ("INTERNAL_ERROR", "database is locked", UnavailableError),
        ("PERMISSION_DENIED", "no", RefusedError),
        ("INTERNAL_ERROR", "API request to endpoint failed with error code 401 != 200", RefusedError),
    ],
)
def test_refusals(code: str, message: str, kind: type[Exception]) -> None:
    from mlflow.protos.databricks_pb2 import ErrorCode

    with pytest.raises(kind) as told, translated(mlflow):
        raise mlflow.exceptions.MlflowException(message, error_code=ErrorCode.Value(code))
    assert type(told.value) is kind


def test_a_store_that_mlflow_skinny_does_not_know() -> None:
    mlflow = pytest.importorskip("mlflow")
    from mlflow.tracking.registry import UnsupportedModelRegistryStoreURIException as Unsupported

    with pytest.raises(RejectedError, match=re.escape(install_line("mlflow"))), translated(mlflow):
        raise Unsupported(unsupported_uri="sqlite:///mlflow.db", supported_uri_schemes=["http"])


def test_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("sqlite:///a.db") == f"sqlite:///{tmp_path}/a.db"
    assert absolute("sqlite:////a/b.db") == "sqlite:////a/b.db"
    assert absolute("./mlruns") == absolute("mlruns") == (tmp_path / "mlruns").as_uri()
    assert absolute("file:mlruns") == (tmp_path / "mlruns").as_uri()
    for same in ("http://host:5000", "databricks", "databricks://profile", "file:///a", "postgresql://me:x@host/db"):
        assert absolute(same) == same
    assert without_credentials("https://me:x@host:1/a?b") == "https://host:1/a?b"


@pytest.mark.parametrize(
    ("uri", "has"),
    [
        ("http://me:secret@mlflow.example.org:5000", True),
        ("http://me@mlflow.example.org", False),
        ("http://mlflow.example.org", False),
        ("postgresql://me:secret@db/mlflow", False),  # which MLflow does not print
        ("sqlite:///a@b:c.db", False),
        ("http://[x", False),
    ],
)
def test_a_password_in_an_address(uri: str, has: bool) -> None:
    assert has_password(uri) is has


def test_a_password_is_warned_of_once_and_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    from rldk_tracking import MLflowTracker

    mlflow_server._warn_of_password.cache_clear()
    check_uri("http://mlflow.example.org")
    assert caplog.text == ""
    for _ in range(2):
        MLflowTracker(tracking_uri="http://me:secret@mlflow.example.org")
    assert caplog.text.count("MLFLOW_TRACKING_PASSWORD") == 1
    assert "secret" not in caplog.text
