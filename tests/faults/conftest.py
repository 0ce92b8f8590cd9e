"""An MLflow server on loopback for the tests that break it."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rldk_tracking.journal import process
from tests.faults.processes import couriers
from tests.faults.proxy import Proxy
from tests.trackers.conftest import Server

os.environ.update({"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"})


@pytest.fixture(autouse=True)
def _own_courier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A courier for each test, which does not go on trying when the test is over."""
    monkeypatch.setattr(process, "_courier", None)
    yield
    if any(tmp_path.rglob("*.courier.lock")):
        for courier in couriers(tmp_path):
            courier.kill()


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An sqlite store with its tables, to be copied: making it takes seconds."""
    import mlflow

    path = tmp_path_factory.mktemp("empty-store") / "mlflow.db"
    mlflow.MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@dataclass
class Backend:
    """A server, a proxy before it, and one run in it."""

    server: Server
    proxy: Proxy
    run_id: str

    @property
    def store(self) -> str:
        """Address of the store behind the server, for reading."""
        return f"sqlite:///{self.server.folder / 'mlflow.db'}"

    def tags(self) -> dict[str, Any]:
        import mlflow

        return dict(mlflow.MlflowClient(tracking_uri=self.store).get_run(self.run_id).data.tags)


@pytest.fixture(scope="session")
def server(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_store, folder / "mlflow.db")
    server = Server(folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture
def backend(server: Server) -> Iterator[Backend]:
    import mlflow

    if server.process is None or server.process.poll() is not None:
        server.start()
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{server.folder / 'mlflow.db'}")
    run_id = client.create_run("0").info.run_id
    proxy = Proxy(server.uri)
    yield Backend(server, proxy, run_id)
    proxy.close()
    if server.process is not None and server.process.poll() is None:
        server.signal(signal.SIGCONT)
