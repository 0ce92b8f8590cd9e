from __future__ import annotations

import json
import logging
import math
import signal
import subprocess
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
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.base import RejectedError, Row, UnavailableError
from rldk_tracking.trackers.delivery import Delivery
from rldk_tracking.trackers.journal import decode, read
from rldk_tracking.trackers.mlflow import MLflowTracker
from rldk_tracking.trackers.spool import Spool

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
    delivery = Delivery(tracker)
    delivery.open(RunInfo())
    assert tracker.joined
    for step in range(20):
        delivery.put("log", {"rldk/kl/ref_k1": step / 3, "rldk/reward/mean": 1.0}, step)
    delivery.close()
    assert delivery.errors == 0
    assert store.history(run.run_id, "rldk/kl/ref_k1") == [(step, step / 3) for step in range(20)]
    assert len(store.client.search_runs([store.experiment_id, "0"])) == 1
    assert store.client.get_run(run.run_id).info.status == "RUNNING", "a run that it did not start must not be ended"


def test_rows_from_before_the_run_are_written_once_there_is_one(store: Any) -> None:
    tracker = MLflowTracker()
    delivery = Delivery(tracker)
    delivery.open(RunInfo())
    delivery.put("log", {"rldk/a": 1.0}, 1)
    time.sleep(0.05)
    assert not tracker.joined
    with mlflow.start_run(experiment_id=store.experiment_id) as active:
        delivery.open(RunInfo())
        delivery.put("log", {"rldk/a": 2.0}, 2)
        delivery.close()
    assert store.history(active.info.run_id, "rldk/a") == [(1, 1.0), (2, 2.0)]
    assert delivery.errors == 0


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
    delivery = Delivery(tracker)
    with mlflow.start_run(experiment_id=store.experiment_id) as active:
        delivery.open(RunInfo())
    delivery.put("log", {"rldk/a": 1.0}, 9)
    delivery.put("status", "finished", {}, 9)
    delivery.close()
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


def test_alerts_become_tags_and_a_table(store: Any, run: Any, make_alert: Callable[..., Alert]) -> None:
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
    delivery = Delivery(tracker)
    delivery.open(RunInfo(name="a name"))
    assert tracker.joined
    delivery.put("log", {"rldk/a": 1.0}, 1)
    delivery.put("status", "crashed", {}, 1)
    assert delivery.flush(30)
    assert tracker.run_id is not None
    run_id = tracker.run_id
    delivery.close()
    made = store.client.get_run(run_id)
    assert store.client.get_experiment(made.info.experiment_id).name == "mine"
    assert (made.info.run_name, made.info.status) == ("a name", "FAILED")
    assert mlflow.active_run() is None
    # The same tracker serves a second training with a second run.
    delivery = Delivery(tracker)
    delivery.open(RunInfo())
    delivery.put("log", {"rldk/a": 1.0}, 1)
    assert delivery.flush(30)
    assert tracker.run_id not in (None, run_id)
    delivery.close()


def test_a_run_given_by_id_is_not_ended(store: Any) -> None:
    run_id = store.client.create_run(store.experiment_id).info.run_id
    tracker = MLflowTracker(run_id=run_id, tracking_uri=store.uri)
    delivery = Delivery(tracker)
    delivery.open(RunInfo())
    delivery.put("log", {"rldk/a": 1.0}, 1)
    delivery.close()
    assert store.history(run_id, "rldk/a") == [(1, 1.0)]
    assert store.client.get_run(run_id).info.status == "RUNNING"


def waiting_in(path: Path) -> list[dict[str, Any]]:
    """What a process left in its spool."""
    spool = Spool.reopen(path)
    try:
        return [record for record, _ in spool.read(spool.first) if record["type"] != "address"]
    finally:
        spool.close()


def test_a_run_that_is_gone_goes_to_the_journal(store: Any, tmp_path: Path) -> None:
    delivery = Delivery(MLflowTracker(run_id="0" * 32), spool=tmp_path / "spool.jsonl", backoff=0.01)
    delivery.open(RunInfo())
    delivery.put("log", {"rldk/a": 1.0}, 1)
    delivery.close()
    (record,) = read(tmp_path / "rejected-mlflow.jsonl")
    assert record["to"] == {"run_id": "0" * 32, "tracking_uri": store.uri}
    assert delivery.errors == 1


def test_a_store_that_is_full_for_a_while_loses_nothing(store: Any, run: Any, tmp_path: Path) -> None:
    """The store refuses every row, and is written to again as soon as it can be."""
    database = tmp_path / "mlflow.db"
    delivery = Delivery(MLflowTracker(), backoff=0.05)
    delivery.open(RunInfo())
    delivery.put("log", {"rldk/a": 0.0}, 0)
    assert delivery.flush(30)
    # A trigger is used because the tests may run as root, whom no file mode holds.
    import sqlite3

    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TRIGGER full BEFORE INSERT ON metrics BEGIN SELECT RAISE(FAIL, 'disk is full'); END")
    for step in range(1, 6):
        delivery.put("log", {"rldk/a": float(step)}, step)
    time.sleep(0.5)
    assert not delivery.healthy
    with sqlite3.connect(database) as connection:
        connection.execute("DROP TRIGGER full")
    delivery.close()
    assert store.history(run.run_id, "rldk/a") == [(step, float(step)) for step in range(6)]


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
    with pytest.raises(ImportError, match=r'pip install "rldk-tracking\[mlflow\]"'):
        MLflowTracker()


def test_mlflows_own_settings_are_left_alone(store: Any, run: Any) -> None:
    import os

    before = {key: value for key, value in os.environ.items() if key.startswith("MLFLOW")}
    delivery = Delivery(MLflowTracker())
    delivery.open(RunInfo())
    delivery.put("log", {"rldk/a": 1.0}, 1)
    delivery.close()
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
    delivery = Delivery(tracker)
    delivery.open(RunInfo())
    for step in range(60):
        delivery.put("log", {"rldk/kl/ref_k1": step / 3}, step)
    delivery.put("alert", make_alert())
    delivery.put("log_table", "rldk/samples", ["a"], [[1]], 60)
    assert delivery.flush(30)
    assert tracker.url() == f"{mlflow_server.uri}/#/experiments/{remote.experiment_id}/runs/{remote.run_id}"
    assert requests.get(tracker.url() or "", timeout=5).ok
    delivery.close()
    assert delivery.errors == 0
    assert server_history(mlflow_server, remote.run_id, "rldk/kl/ref_k1") == [(s, s / 3) for s in range(60)]
    assert len(table_of(remote, "rldk/alerts.json")) == 1


def test_a_server_that_hangs(mlflow_server: Any, remote: Any, tmp_path: Path) -> None:
    """Stopped in the middle: no put waits, close keeps its limit, the journal and the store together hold each row."""
    delivery = Delivery(MLflowTracker(), spool=tmp_path / "spool.jsonl")
    delivery.open(RunInfo())
    delivery.put("log", {"rldk/a": 0.0}, 0)
    assert delivery.flush(30)
    mlflow_server.signal(signal.SIGSTOP)
    try:
        longest = 0.0
        for step in range(1, 200):
            before = time.perf_counter()
            delivery.put("log", {"rldk/a": float(step)}, step)
            longest = max(longest, time.perf_counter() - before)
            time.sleep(0.002)
        before = time.monotonic()
        delivery.close(timeout=2)
        assert time.monotonic() - before < 2.5
        assert longest < 0.010
    finally:
        mlflow_server.signal(signal.SIGCONT)
    stored = [step for step, _ in server_history(mlflow_server, remote.run_id, "rldk/a")]
    spooled = [record["step"] for record in waiting_in(tmp_path / "spool.jsonl")]
    assert sorted({*stored, *spooled}) == list(range(200))
    assert delivery.lost == 0

    # Sent from the journal, with the time that each row had: nothing is missing, nothing is there twice.
    tracker = MLflowTracker(run_id=remote.run_id, tracking_uri=mlflow_server.uri)
    tracker.open(RunInfo())
    records = list(waiting_in(tmp_path / "spool.jsonl"))
    assert {decode(record)[0] for record in records} == {"log"}
    tracker.log_rows([Row(*decode(record)[1], record["time"]) for record in records])
    assert server_history(mlflow_server, remote.run_id, "rldk/a") == [(step, float(step)) for step in range(200)]


def test_a_server_that_dies_and_comes_back(mlflow_server: Any, remote: Any) -> None:
    delivery = Delivery(MLflowTracker(), backoff=0.2, backoff_limit=1)
    delivery.open(RunInfo())
    delivery.put("log", {"rldk/b": 0.0}, 0)
    assert delivery.flush(30)
    mlflow_server.kill()
    try:
        for step in range(1, 50):
            delivery.put("log", {"rldk/b": float(step)}, step)
        time.sleep(1)
        assert not delivery.healthy
        assert delivery.errors >= 2
    finally:
        mlflow_server.start()
    assert delivery.flush(30)
    delivery.close()
    assert delivery.healthy
    assert server_history(mlflow_server, remote.run_id, "rldk/b") == [(step, float(step)) for step in range(50)]


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


def test_credentials_in_the_servers_address_stay_here(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from tests.trackers.conftest import free_port

    caplog.set_level(logging.DEBUG)
    tracker = MLflowTracker(run_id="0" * 32, tracking_uri=f"http://me:hunter2@127.0.0.1:{free_port()}")
    delivery = Delivery(tracker, spool=tmp_path / "spool.jsonl")
    delivery.open(RunInfo())
    delivery.put("log", {"rldk/a": 1.0}, 1)
    delivery.close(timeout=0.5)
    assert "does not take anything now" in caplog.text
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 2
    assert "hunter2" not in caplog.text + (tmp_path / "spool.jsonl").read_text() + str(tracker.url())


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
    threads = threading.active_count()
    delivery = Delivery(tracker, spool=tmp_path / "spool.jsonl")
    delivery.put("log", {"rldk/a": 1.0}, 1)
    before = time.monotonic()
    delivery.close(timeout=1)
    assert time.monotonic() - before < 1.5
    assert [record["step"] for record in waiting_in(tmp_path / "spool.jsonl")] == [1]
    time.sleep(0.2)
    assert threading.active_count() <= threads


def test_the_process_ends_while_the_server_hangs(mlflow_server: Any, remote: Any, tmp_path: Path) -> None:
    script = (
        "import sys, os, signal\n"
        "from rldk_tracking.trackers.delivery import Delivery\n"
        "from rldk_tracking.trackers.mlflow import MLflowTracker\n"
        "from rldk_tracking.trackers.base import RunInfo\n"
        "delivery = Delivery(MLflowTracker(run_id=sys.argv[1], tracking_uri=sys.argv[2]), spool=sys.argv[3])\n"
        "delivery.open(RunInfo())\n"
        "delivery.put('log', {'rldk/c': 0.0}, 0)\n"
        "assert delivery.flush(60)\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "for step in range(1, 20): delivery.put('log', {'rldk/c': 1.0}, step)\n"
        "delivery.close(1)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, remote.run_id, mlflow_server.uri, str(tmp_path / "spool.jsonl")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        mlflow_server.signal(signal.SIGSTOP)
        before = time.monotonic()
        process.communicate("go\n", timeout=30)
        assert time.monotonic() - before < 5
    finally:
        mlflow_server.signal(signal.SIGCONT)
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert {record["step"] for record in waiting_in(tmp_path / "spool.jsonl")} == set(range(1, 20))
