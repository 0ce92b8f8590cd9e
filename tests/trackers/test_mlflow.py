from __future__ import annotations

import json
import math
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

from rldk_tracking.health.alert import Alert
from rldk_tracking.messages.packages import install_line
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.base import RejectedError, Row, UnavailableError
from rldk_tracking.trackers.mlflow import MLflowTracker

mlflow = pytest.importorskip("mlflow", reason="needs mlflow")


@pytest.fixture
def run(store: Any) -> Iterator[Any]:
    with mlflow.start_run(experiment_id=store.experiment_id) as active:
        yield active.info


def tags(store: Any, run_id: str) -> dict[str, str]:
    return dict(store.client.get_run(run_id).data.tags)


def table_of(run: Any, path: str) -> Any:
    """As a user reads it: a pandas frame."""
    return mlflow.MlflowClient().load_table(run.experiment_id, path, run_ids=[run.run_id])


def test_joins_the_active_run_and_writes_from_another_thread(store: Any, run: Any) -> None:
    tracker = MLflowTracker()
    assert not tracker.joined
    tracker.open(RunInfo())
    assert tracker.joined
    for step in range(20):
        tracker.log({"rldk/kl/ref_k1": step / 3, "rldk/reward/mean": 1.0}, step)
    tracker.close()
    assert store.history(run.run_id, "rldk/kl/ref_k1") == [(step, step / 3) for step in range(20)]
    assert len(store.client.search_runs([store.experiment_id, "0"])) == 1
    assert store.client.get_run(run.run_id).info.status == "RUNNING", "a run that it did not start must not be ended"


def test_a_store_that_is_set_with_the_run(store: Any, tmp_path: Path) -> None:
    """MLflow's address may be set between train begin and the first row, by the callback that opens the run."""
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'elsewhere.db'}")
    tracker = MLflowTracker()
    tracker.open(RunInfo())
    mlflow.set_tracking_uri(store.uri)
    with mlflow.start_run(experiment_id=store.experiment_id) as active:
        tracker.open(RunInfo())
        tracker.log({"rldk/a": 1.0}, 1)
        tracker.close()
        assert tracker.run_id == active.info.run_id, "for those who print where it went"
        assert not tracker.joined
    assert store.history(active.info.run_id, "rldk/a") == [(1, 1.0)]


def test_the_last_row_reaches_a_run_that_has_ended(store: Any) -> None:
    tracker = MLflowTracker()
    with mlflow.start_run(experiment_id=store.experiment_id) as active:
        tracker.open(RunInfo())
    tracker.log({"rldk/a": 1.0}, 9)
    tracker.status("finished", {}, 9)
    tracker.close()
    assert store.history(active.info.run_id, "rldk/a") == [(9, 1.0)]
    assert tags(store, active.info.run_id)["rldk.status"] == "finished"
    assert store.client.get_run(active.info.run_id).info.status == "FINISHED"


def test_a_row_sent_twice_is_stored_once(store: Any, run: Any) -> None:
    tracker = MLflowTracker()
    tracker.open(RunInfo())
    row = Row({"rldk/a": 0.1, "rldk/b": 2.0}, 3, 1_700_000_000.123)
    tracker.log_rows([row])
    tracker.log_rows([row, Row({"rldk/a": 0.2}, 4, 1_700_000_001.0)])
    assert store.history(run.run_id, "rldk/a") == [(3, 0.1), (4, 0.2)]
    assert store.history(run.run_id, "rldk/b") == [(3, 2.0)]
    (first, _) = sorted(store.client.get_metric_history(run.run_id, "rldk/a"), key=lambda m: m.step)
    assert first.timestamp == 1_700_000_000_123


def test_ten_thousand_keys_and_illegal_ones(store: Any, run: Any) -> None:
    tracker = MLflowTracker()
    tracker.open(RunInfo())
    row = {f"rldk/group/key_{i}": float(i) for i in range(2500)}
    row |= {"rldk/reward/<lambda>": 1.0, "rldk/a(b)%": 2.0, "//x//../y/": 3.0, "rldk/nan": math.nan, "é" * 400: 4.0}
    tracker.log(row, 1)
    stored = store.client.get_run(run.run_id).data.metrics
    assert len(stored) == 2504
    assert stored["rldk/reward/_lambda_"] == 1.0
    assert stored["rldk/a_b__"] == 2.0
    assert stored["x/_/y"] == 3.0
    assert stored["é" * 250] == 4.0
    assert stored["rldk/group/key_2499"] == 2499.0


def test_alerts_become_tags_and_a_table(
    store: Any, run: Any, make_alert: Callable[..., Alert], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("EVERY_S", "A_ROW_S"):
        monkeypatch.setattr(f"rldk_tracking.trackers.mlflow_alerts.{name}", 0.0)
    tracker = MLflowTracker()
    tracker.open(RunInfo())
    tracker.status("running", {}, 1)
    assert tags(store, run.run_id)["rldk.status"] == "running"
    tracker.alert(make_alert("kl.high"))
    tracker.alert(make_alert("nan.loss", severity="critical", step=13, value=math.nan, threshold=None, key=None))
    found = tags(store, run.run_id)
    assert found["rldk.alerts.open"] == "kl.high,nan.loss"
    assert found["rldk.status"] == "critical"
    assert "rldk.heartbeat" in found
    tracker.alert(make_alert("nan.loss", severity="critical", state="resolved", step=20))
    found = tags(store, run.run_id)
    assert (found["rldk.alerts.open"], found["rldk.status"]) == ("kl.high", "warning")
    tracker.status("finished", {}, 30)
    tracker.alert(make_alert("kl.high", state="resolved", step=30))
    found = tags(store, run.run_id)
    assert (found["rldk.alerts.open"], found["rldk.status"], found["rldk.step"]) == ("", "finished", "30")

    table = table_of(run, "rldk/alerts.json")
    assert list(table["rule"]) == ["kl.high", "nan.loss", "nan.loss", "kl.high"]
    assert list(table["state"]) == ["firing", "firing", "resolved", "resolved"]
    assert list(table["step"]) == [12, 13, 20, 30]
    assert table["value"][0] == 0.31


def test_a_resumed_run_keeps_its_earlier_alerts(store: Any, run: Any, make_alert: Callable[..., Alert]) -> None:
    first = MLflowTracker()
    first.open(RunInfo())
    first.alert(make_alert("kl.high", step=5))
    first.close()
    second = MLflowTracker(run_id=run.run_id)
    second.open(RunInfo())
    second.alert(make_alert("kl.high", step=9, state="resolved"))
    second.close()
    table = table_of(run, "rldk/alerts.json")
    assert list(table["step"]) == [5, 9]


def test_an_alert_tried_twice_is_one_row(store: Any, run: Any, make_alert: Callable[..., Alert]) -> None:
    tracker = MLflowTracker()
    tracker.open(RunInfo())
    tracker.alert(make_alert())
    tracker.alert(make_alert())
    assert len(table_of(run, "rldk/alerts.json")) == 1


def test_tables_and_figures_are_artifacts(store: Any, run: Any) -> None:
    mlflow.log_table({"prompt": ["p"]}, "theirs.json")
    tracker = MLflowTracker()
    tracker.open(RunInfo())
    tracker.log_table("rldk/samples", ["text", "reward"], [["a <b>", 1.5], ["c", None]], 40)
    tracker.log_figure("rldk/reward_curve", "<svg xmlns='http://www.w3.org/2000/svg'/>", 40)
    table = table_of(run, "rldk/samples/step-00000040.json")
    assert table["text"].tolist() == ["a <b>", "c"]
    assert len(table_of(run, "theirs.json")) == 1, "tables of others must stay listed"
    uri = store.client.get_run(run.run_id).info.artifact_uri
    assert mlflow.artifacts.load_text(f"{uri}/rldk/reward_curve/step-00000040.svg").startswith("<svg")


def test_many_tables_do_not_break_the_list_of_tables(store: Any, run: Any) -> None:
    tracker = MLflowTracker()
    tracker.open(RunInfo())
    for step in range(130):
        tracker.log_table("rldk/" + "long/" * 10, ["a"], [[1]], step)
    assert len(json.loads(tags(store, run.run_id)["mlflow.loggedArtifacts"])) > 50


def test_a_run_of_its_own(store: Any) -> None:
    tracker = MLflowTracker(experiment="mine", tracking_uri=store.uri)
    tracker.open(RunInfo(name="a name"))
    assert tracker.joined
    tracker.log({"rldk/a": 1.0}, 1)
    tracker.status("crashed", {}, 1)
    assert tracker.run_id is not None
    run_id = tracker.run_id
    tracker.close()
    made = store.client.get_run(run_id)
    assert store.client.get_experiment(made.info.experiment_id).name == "mine"
    assert (made.info.run_name, made.info.status) == ("a name", "FAILED")
    assert mlflow.active_run() is None
    # The same tracker serves a second training with a second run.
    tracker.open(RunInfo())
    tracker.log({"rldk/a": 1.0}, 1)
    assert tracker.run_id not in (None, run_id)
    tracker.close()


def test_a_run_given_by_id_is_not_ended(store: Any) -> None:
    run_id = store.client.create_run(store.experiment_id).info.run_id
    tracker = MLflowTracker(run_id=run_id, tracking_uri=store.uri)
    tracker.open(RunInfo())
    tracker.log({"rldk/a": 1.0}, 1)
    tracker.close()
    assert store.history(run_id, "rldk/a") == [(1, 1.0)]
    assert store.client.get_run(run_id).info.status == "RUNNING"


def test_page_address(store: Any) -> None:
    tracker = MLflowTracker()
    tracker.open(RunInfo())
    assert tracker.url() is None
    tracker.run_id, tracker.experiment_id = "r", "7"
    assert tracker.url() is None, "a sqlite store has no page"
    tracker.tracking_uri = "https://me:secret@host/mlflow/"
    assert tracker.url() == "https://host/mlflow/#/experiments/7/runs/r"
    assert "secret" not in json.dumps(dict(tracker.address()))


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ImportError, match=re.escape(install_line("mlflow"))):
        MLflowTracker()


def test_mlflows_own_settings_are_left_alone(store: Any, run: Any) -> None:
    import os

    before = {key: value for key, value in os.environ.items() if key.startswith("MLFLOW")}
    tracker = MLflowTracker()
    tracker.open(RunInfo())
    tracker.log({"rldk/a": 1.0}, 1)
    tracker.close()
    assert {key: value for key, value in os.environ.items() if key.startswith("MLFLOW")} == before


# On a server.


@pytest.fixture
def remote(mlflow_server: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    mlflow.set_tracking_uri(mlflow_server.uri)
    with mlflow.start_run() as active:
        yield active.info
    mlflow.set_tracking_uri(before)


def server_history(server: Any, run_id: str, key: str) -> list[tuple[int, float]]:
    client = mlflow.MlflowClient(tracking_uri=server.uri)
    return sorted((m.step, m.value) for m in client.get_metric_history(run_id, key))


def test_on_a_server(mlflow_server: Any, remote: Any, make_alert: Callable[..., Alert]) -> None:
    tracker = MLflowTracker()
    tracker.open(RunInfo())
    for step in range(60):
        tracker.log({"rldk/kl/ref_k1": step / 3}, step)
    tracker.alert(make_alert())
    tracker.log_table("rldk/samples", ["a"], [[1]], 60)
    assert tracker.url() == f"{mlflow_server.uri}/#/experiments/{remote.experiment_id}/runs/{remote.run_id}"
    assert requests.get(tracker.url() or "", timeout=5).ok
    tracker.close()
    assert server_history(mlflow_server, remote.run_id, "rldk/kl/ref_k1") == [(s, s / 3) for s in range(60)]
    assert len(table_of(remote, "rldk/alerts.json")) == 1


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (403, b"forbidden", UnavailableError),
        (401, b"who?", UnavailableError),
        (404, b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such run"}', RejectedError),
        (400, b'{"error_code": "INVALID_PARAMETER_VALUE", "message": "bad key"}', RejectedError),
        (413, b"too large", RejectedError),
        (429, b"slow down", UnavailableError),
        (500, b"oops", UnavailableError),
        (503, b"later", UnavailableError),
    ],
)
def test_answers_that_are_final_and_those_that_are_not(
    status: int, body: bytes, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            alive = self.path == "/health"
            self.send_response(200 if alive else status)
            self.send_header("Content-Length", "2" if alive else str(len(body)))
            self.end_headers()
            self.wfile.write(b"OK" if alive else body)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *args: Any) -> None:
            return None

    # MLflow's own repetitions, which would take minutes.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        tracker = MLflowTracker(run_id="0" * 32, tracking_uri=f"http://127.0.0.1:{server.server_port}")
        tracker.open(RunInfo())
        with pytest.raises(kind):
            tracker.log({"rldk/a": 1.0}, 1)
        server.shutdown()


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    """Without our look at the server, MLflow's client would keep the thread for minutes."""
    from tests.trackers.conftest import free_port

    uri = f"http://127.0.0.1:{free_port()}"
    tracker = MLflowTracker(run_id="0" * 32, tracking_uri=uri)
    before = time.monotonic()
    tracker.open(RunInfo())
    with pytest.raises(UnavailableError, match="does not take anything now"):
        tracker.log({"rldk/a": 1.0}, 1)
    assert time.monotonic() - before < 3


def test_credentials_in_the_servers_address_stay_secret() -> None:
    from tests.trackers.conftest import free_port

    uri = f"http://me:hunter2@127.0.0.1:{free_port()}"
    tracker = MLflowTracker(run_id="0" * 32, tracking_uri=uri)
    tracker.open(RunInfo())
    assert "hunter2" not in json.dumps(dict(tracker.address())) + str(tracker.url())
    assert MLflowTracker.resume(tracker.address(), tracker.secrets()).tracking_uri == uri
    with pytest.raises(UnavailableError) as told:
        tracker.log({"rldk/a": 1.0}, 1)
    assert "hunter2" not in str(told.value)


def test_another_process_goes_on_with_what_the_first_knew(
    store: Any, run: Any, make_alert: Callable[..., Alert]
) -> None:
    first = MLflowTracker()
    first.open(RunInfo())
    second = MLflowTracker.resume(first.address(), first.secrets())
    second.open(RunInfo())
    firing, resolved = make_alert("a.b", step=3, severity="critical"), make_alert("a.b", step=4, state="resolved")
    second.restore([("log", ({"rldk/health/score": 0.5}, 3)), ("alert", (firing,))])
    second.flush()
    assert tags(store, run.run_id)["rldk.alerts.open"] == "a.b", "what the first held back the second writes"
    second.alert(resolved)
    second.close()
    assert list(table_of(run, "rldk/alerts.json")["step"]) == [3, 4]
    assert tags(store, run.run_id)["rldk.alerts.open"] == ""


def test_a_run_that_is_to_be_made_is_made_once(store: Any) -> None:
    first = MLflowTracker(experiment="mine", tracking_uri=store.uri)
    first.open(RunInfo(name="a name"))
    made = []
    for _ in range(2):  # a courier that is killed before it can note which run it made
        tracker = MLflowTracker.resume(first.address(), first.secrets())
        tracker.open(RunInfo(name="a name"))
        tracker.log({"rldk/a": 1.0}, 1)
        made.append(tracker.run_id)
    assert made[0] == made[1] is not None
    first.adopt(tracker.address())
    assert first.run_id == made[0]
    tracker.status("stopped", {}, 1)
    tracker.close()
    assert store.client.get_run(made[0]).info.status == "KILLED"


def test_many_alerts_do_not_write_the_whole_table_each_time(
    store: Any, run: Any, make_alert: Callable[..., Alert], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    tracker = MLflowTracker()
    tracker.open(RunInfo())
    from rldk_tracking.trackers import mlflow_alerts as module

    real = module.write_table
    monkeypatch.setattr(module, "write_table", lambda *args: (written.append(args[2]), real(*args)))
    for step in range(200):
        tracker.alert(make_alert(f"a.b{step}", step=step))
    assert len(written) < 5
    tracker.close()
    assert len(table_of(run, "rldk/alerts.json")) == 200, "the rest comes at the end"


def test_a_relative_address_is_the_same_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tracker = MLflowTracker(run_id="0" * 32, tracking_uri="sqlite:///some.db")
    tracker.open(RunInfo())
    assert tracker.address()["tracking_uri"] == f"sqlite:///{tmp_path / 'some.db'}"
