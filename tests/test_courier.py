"""The courier's process by itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from rldk_tracking.courier import ENVIRONMENT, delivering, main
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.base import UnavailableError

ROOT = Path(__file__).parents[1]


def test_it_ends_when_nobody_tells_it_anything() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rldk_tracking.courier"],
        input=b"nonsense\n{}\n[]\n",
        capture_output=True,
        timeout=60,
        cwd=ROOT,
    )
    assert (done.returncode, done.stdout) == (0, b"")


def test_it_ends_when_the_trainer_is_gone_although_the_pipe_stays_open(tmp_path: Path) -> None:
    """A child that the trainer forked has inherited the pipe's other end."""
    from tests.journal.conftest import started

    journal = started(tmp_path)
    journal.end("finished", 0)
    reader, writer = os.pipe()
    trainer = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    created = psutil.Process(trainer.pid).create_time()
    courier = subprocess.Popen([sys.executable, "-m", "rldk_tracking.courier"], stdin=reader, cwd=ROOT)
    message = {"journal": str(journal.path), "pid": trainer.pid, "created": created, "destinations": [], "rules": {}}
    os.write(writer, json.dumps(message).encode() + b"\n")
    time.sleep(2)
    assert courier.poll() is None
    trainer.kill()
    trainer.wait()
    try:
        assert courier.wait(30) == 0
    finally:
        courier.kill()
        os.close(writer)
        os.close(reader)


def test_settings_of_the_users_own_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import os, sys, runpy; sys.stdin.close(); import rldk_tracking.journal.service as c;"
        "c.serve = lambda source: print({k: os.environ[k] for k in sorted(os.environ) if k.startswith('MLFLOW_HTTP')});"
        "sys.stdin = open(os.devnull); runpy.run_module('rldk_tracking.courier', run_name='__main__')"
    )
    mine = os.environ | {"MLFLOW_HTTP_REQUEST_TIMEOUT": "77"}
    mine.pop("MLFLOW_HTTP_REQUEST_MAX_RETRIES", None)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=mine)
    assert "'MLFLOW_HTTP_REQUEST_TIMEOUT': '77'" in done.stdout
    assert f"'MLFLOW_HTTP_REQUEST_MAX_RETRIES': '{ENVIRONMENT['MLFLOW_HTTP_REQUEST_MAX_RETRIES']}'" in done.stdout


def test_by_hand_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert main() == 2
    assert "rldk-tracking sync" in capsys.readouterr().err


def test_an_import_is_cheap() -> None:
    code = (
        "import sys, rldk_tracking.courier; print(sorted({'mlflow', 'torch', 'numpy', 'requests'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_what_is_missing_is_set_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    with pytest.raises(KeyError), delivering():
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
        assert os.environ["MLFLOW_ALLOW_HTTP_REDIRECTS"] == "false"
        raise KeyError
    assert not [name for name in ENVIRONMENT if name in os.environ and name != "MLFLOW_HTTP_REQUEST_TIMEOUT"]


def test_mlflow_has_these_settings() -> None:
    """A name that it does not know would do nothing."""
    variables = pytest.importorskip("mlflow.environment_variables", reason="needs mlflow")
    source = Path(variables.__file__).read_text()
    for name in ENVIRONMENT:
        assert not name.startswith("MLFLOW") or f'"{name}"' in source


@contextmanager
def answering(status: int, headers: dict[str, str]) -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """A server that is healthy and answers every call of the API so. Gives its address, and who asked for what."""
    asked: list[tuple[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers.get("Authorization")))
            healthy = self.path == "/health"
            self.send_response(200 if healthy else status)
            for name, value in {} if healthy else headers.items():
                self.send_header(name, value)
            body = b"OK" if healthy else b"{}"
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *args: Any) -> None:
            return None

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


def log_a_row(place: str) -> None:
    mlflow = pytest.importorskip("rldk_tracking.trackers.mlflow", reason="needs mlflow")
    pytest.importorskip("mlflow", reason="needs mlflow")
    tracker = mlflow.MLflowTracker("0" * 32, place)
    tracker.open(RunInfo())
    tracker.log({"rldk/a": 1.0}, 1)


@pytest.mark.parametrize("status", [302, 307, 308])
def test_neither_rows_nor_credentials_go_where_a_server_sends_them(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    with (
        answering(200, {}) as (foreign, asked),
        answering(status, {"Location": f"{foreign}/elsewhere"}) as (place, own),
    ):
        with delivering(), pytest.raises(UnavailableError):
            log_a_row(place)
        assert len(own) > 1
    assert asked == []


def test_a_server_does_not_say_for_how_long_it_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    with answering(503, {"Retry-After": "3600"}) as (place, _), delivering():
        start = time.monotonic()
        with pytest.raises(UnavailableError):
            log_a_row(place)
        assert time.monotonic() - start < 20


def test_what_is_healthy_and_answers_everything_alike_is_not_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(200, {}) as (place, asked), delivering(), pytest.raises(UnavailableError, match="is not MLflow"):
        log_a_row(place)
    assert not [path for path, _ in asked if "log-batch" in path], "no row is counted as taken"
