"""Real backends on this machine: an MLflow store and server, alerts to send, and what every test is kept from."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from rldk_tracking.health.alert import Alert
from rldk_tracking.trackers.records import parsed

os.environ.update(
    {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "WANDB_SILENT": "true",
        "WANDB_ERROR_REPORTING": "false",
    }
)


@pytest.fixture
def make_alert(make_alert: Callable[..., Alert]) -> Callable[..., Alert]:
    """The alert of all tests, with evidence, as trackers show it."""

    def make(rule: str = "kl.high", **changes: Any) -> Alert:
        return make_alert(rule, **({"evidence": {"kl": 0.31}, "key": "rldk/kl/ref_k1"} | changes))

    return make


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a file of lines."""
    return list(parsed(path.read_bytes().splitlines()))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty sqlite store: making its tables takes seconds, copying it none."""
    mlflow = pytest.importorskip("mlflow")
    path = tmp_path_factory.mktemp("mlflow-template") / "mlflow.db"
    mlflow.MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@dataclass
class Store:
    """An MLflow tracking store and one experiment in it."""

    uri: str
    experiment_id: str

    @property
    def client(self) -> Any:
        import mlflow

        return mlflow.MlflowClient(tracking_uri=self.uri)

    def history(self, run_id: str, key: str) -> list[tuple[int, float]]:
        """(step, value) of a series, by step."""
        return sorted((m.step, m.value) for m in self.client.get_metric_history(run_id, key))


@pytest.fixture
def store(mlflow_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A sqlite store of this test's own, which the fluent functions use as well."""
    import mlflow

    path = tmp_path / "mlflow.db"
    shutil.copy(mlflow_template, path)
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{path}"
    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    mlflow.set_tracking_uri(uri)
    client = mlflow.MlflowClient(tracking_uri=uri)
    yield Store(uri, client.create_experiment("tests", artifact_location=(tmp_path / "artifacts").as_uri()))
    while mlflow.active_run() is not None:
        mlflow.end_run()
    mlflow.set_tracking_uri(before)


class Server:
    """`mlflow server` on loopback, that can be stopped, killed and started again over the same store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)),
            *("--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}"),
            *("--artifacts-destination", str(self.folder / "artifacts")),
        ]
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, cwd=self.folder, start_new_session=True
            )
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                if requests.get(f"{self.uri}/health", timeout=1).ok:
                    return
            except OSError:
                time.sleep(0.2)
        raise RuntimeError(f"mlflow server did not start: {(self.folder / 'server.log').read_text()[-2000:]}")

    def signal(self, number: int) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.signal(signal.SIGKILL)
            self.process.wait(10)


@pytest.fixture(scope="session")
def mlflow_server(mlflow_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("mlflow-server")
    shutil.copy(mlflow_template, folder / "mlflow.db")
    server = Server(folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture
def trackio_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Trackio's, for this test alone."""
    trackio = pytest.importorskip("trackio", reason="needs trackio")
    from trackio import sqlite_storage, utils
    from trackio.media import media

    place = tmp_path / "trackio"
    for module in (utils, sqlite_storage):
        monkeypatch.setattr(module, "TRACKIO_DIR", place, raising=False)
    for module in (utils, media):
        monkeypatch.setattr(module, "MEDIA_DIR", place / "media")
    yield place
    trackio.context_vars.current_run.set(None)


@pytest.fixture
def trackio_rows(trackio_folder: Path) -> Callable[[str], list[Any]]:
    """`trackio_rows(sql)` of the one project that a test writes to."""

    def rows(sql: str) -> list[Any]:
        (path,) = trackio_folder.glob("*.db")
        with sqlite3.connect(path) as connection:
            return connection.execute(sql).fetchall()

    return rows


@pytest.fixture
def trackio_courier(trackio_folder: Path) -> Any:
    """A tracker as the courier has it, for a run that has been finished."""
    import trackio

    from rldk_tracking.rollout import RunInfo
    from rldk_tracking.trackers.trackio import TrackioTracker

    trackio.init(project="tests", name="one", embed=False, auto_log_gpu=False, auto_log_cpu=False)
    trackio.log({"train/loss": 1.0})
    tracker = TrackioTracker()
    assert not tracker.joined
    tracker.open(RunInfo())
    trackio.finish()
    trackio.context_vars.current_run.set(None)
    courier = TrackioTracker.resume(tracker.address(), tracker.secrets())
    courier.open(RunInfo(trainer="GRPOTrainer"))
    return courier
