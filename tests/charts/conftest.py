"""Alerts to draw, and an MLflow store to write pages into."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from rldk_tracking.health.alert import Alert
from tests.charts.wandb_backend import wandb_backend  # noqa: F401


@pytest.fixture
def make_alert() -> Callable[..., Alert]:
    def make(rule: str = "kl.high", **changes: Any) -> Alert:
        fields: dict[str, Any] = {
            "rule": rule,
            "severity": "warning",
            "state": "firing",
            "step": 12,
            "first_step": 10,
            "value": 0.31,
            "threshold": 0.2,
            "message": "KL to the reference is 0.31 nats per token, above 0.2.",
            "advice": "Lower the learning rate or raise beta.",
            "key": "rldk/kl/ref_k3",
        }
        return Alert(**(fields | changes))

    return make


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty sqlite store: making its tables takes seconds, copying it none."""
    mlflow = pytest.importorskip("mlflow")
    path = tmp_path_factory.mktemp("mlflow-template") / "mlflow.db"
    mlflow.MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def client(mlflow_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of a store of this test's own."""
    import mlflow

    shutil.copy(mlflow_template, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    yield mlflow.MlflowClient(tracking_uri=uri)
    while mlflow.active_run() is not None:
        mlflow.end_run()
    mlflow.set_tracking_uri(before)


class Old(BaseHTTPRequestHandler):
    """A server that says a version."""

    version = "3.8.1"
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.version.encode())

    def log_message(self, *args: Any) -> None:
        return None


@pytest.fixture
def old_pages() -> type[Old]:
    """What such a server answers; a test may change it for itself."""
    return Old


@pytest.fixture
def old_server() -> Iterator[str]:
    """Address of an MLflow server of an age without saved views."""
    server = HTTPServer(("127.0.0.1", 0), Old)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
