"""The dashboard is the tracker's own pages: it serves them, finds the view, and leaves nothing running."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests

from rldk_tracking import RLDKDashboard
from rldk_tracking.charts.mlflow import VIEW_TAG, View, view_path
from tests.charts.saved_views import unpacked

pytestmark = pytest.mark.slow

mlflow = pytest.importorskip("mlflow", reason="needs mlflow")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an MLflow store, in which one experiment has the view."""
    folder = tmp_path_factory.mktemp("store")
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    client.create_experiment("other")
    experiment = client.create_experiment("with view")
    View(client, experiment, "GRPOTrainer").show(["rldk/reward/mean"])
    return folder


def view_of(store: Path) -> str:
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{store / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if VIEW_TAG in e.tags]
    return view_path(experiment.experiment_id)


@pytest.fixture
def no_wandb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(run=None))


def test_it_serves_the_store_and_stops(store: Path) -> None:
    dashboard = RLDKDashboard(output_dir=store, port=0)
    try:
        address = dashboard.start_dashboard()
        server, _, path = address.partition("/#")
        assert f"#{path}" == view_of(store)
        assert server == f"http://127.0.0.1:{dashboard.port}"
        assert requests.get(f"{server}/health", timeout=5).ok
        assert (
            "with view"
            in requests.post(f"{server}/api/2.0/mlflow/experiments/search", json={"max_results": 10}, timeout=30).text
        )
        assert dashboard.start_dashboard() == address
        process: Any = dashboard._process
    finally:
        dashboard.stop()
    assert process.poll() is not None
    with pytest.raises(requests.exceptions.ConnectionError):
        requests.get(f"{server}/health", timeout=5)
    dashboard.stop()


def test_the_view_that_it_opens_refreshes_by_itself(store: Path) -> None:
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{store / 'mlflow.db'}")
    (tag,) = [e.tags[VIEW_TAG] for e in client.search_experiments() if VIEW_TAG in e.tags]
    assert unpacked(tag)["autoRefreshEnabled"] is True
    # MLflow's page knows the setting under that name, and keeps it with a view.
    scripts = (Path(mlflow.__file__).parent / "server" / "js" / "build" / "static" / "js").glob("main.*.js")
    assert any('"compareRunCharts"' in text and '"autoRefreshEnabled"' in text for text in map(Path.read_text, scripts))


def test_what_cannot_be_switched_off_from_here_is_said(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert RLDKDashboard(store).auto_refresh is True
    assert caplog.text == ""
    assert RLDKDashboard(store, auto_refresh=False).auto_refresh is True
    assert "auto_refresh=False has no effect" in caplog.text


def test_a_server_that_is_there_is_not_started_again(
    no_wandb: None, store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: "https://me:secret@mlflow.example.org/")
    local = mlflow.MlflowClient(tracking_uri=f"sqlite:///{store / 'mlflow.db'}")
    monkeypatch.setattr(mlflow, "MlflowClient", lambda tracking_uri: local)
    monkeypatch.setattr(subprocess, "Popen", None)
    assert RLDKDashboard().start_dashboard() == f"https://mlflow.example.org/{view_of(store)}"
    assert capsys.readouterr().err == f"rldk: charts: https://mlflow.example.org/{view_of(store)}\n"


def test_for_wandb_it_names_the_projects_page(monkeypatch: pytest.MonkeyPatch) -> None:
    run = SimpleNamespace(offline=False, project_url="https://wandb.example.org/team/project")
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(run=run))
    assert RLDKDashboard().start_dashboard() == "https://wandb.example.org/team/project"


def test_a_store_without_a_view_opens_the_experiments(
    no_wandb: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    mlflow.MlflowClient(tracking_uri=uri).search_experiments()
    monkeypatch.setattr(RLDKDashboard, "_serve", lambda self, given: f"served:{given}")
    assert RLDKDashboard(output_dir=tmp_path).start_dashboard() == f"served:{uri}/#/experiments"


def test_a_run_without_mlflow_has_its_report(
    no_wandb: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.journal.conftest import row, started

    written = started(tmp_path / "_rldk")
    written.row(1, row(1), [])
    written.close()
    dashboard = RLDKDashboard(output_dir=tmp_path, port=0)
    address = dashboard.start_dashboard()
    try:
        assert dashboard.start_dashboard() == address == f"http://127.0.0.1:{dashboard.port}/"
        assert f"<h1>{tmp_path.name}</h1>" in requests.get(address, timeout=10).text
        assert f"rldk: charts: {address}" in capsys.readouterr().err
    finally:
        dashboard.stop()
    with pytest.raises(requests.exceptions.ConnectionError):
        requests.get(address, timeout=5)


def test_mistakes_are_said(tmp_path: Path, store: Path) -> None:
    with pytest.raises(ValueError, match=r"neither an MLflow store \(mlflow.db\) nor the journal of a run"):
        RLDKDashboard(output_dir=tmp_path)
    with pytest.raises(ValueError, match="port"):
        RLDKDashboard(port=70000)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"Port {port} is taken"):
            RLDKDashboard(output_dir=store, port=port).start_dashboard()


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("this is no database")
    dashboard = RLDKDashboard(output_dir=tmp_path, port=0)
    with pytest.raises(OSError, match="did not start: (.|\n)*file is not a database"):
        dashboard.start_dashboard()
    assert dashboard._process is None


def test_it_ends_with_the_process_that_started_it(store: Path) -> None:
    code = (
        "import sys; from rldk_tracking import RLDKDashboard; d = RLDKDashboard(sys.argv[1], port=0); "
        "d._wait = lambda process: None; d.start_dashboard(); print(d._process.pid)"
    )
    result = subprocess.run([sys.executable, "-c", code, str(store)], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    pid = int(result.stdout.split()[-1])
    assert not Path(f"/proc/{pid}").exists() or not Path("/proc").exists()
