"""What is left of trainings that ended without their tracker, sent by hand."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from rldk_tracking.cli.main import main
from rldk_tracking.health.alert import Alert
from rldk_tracking.trackers.journal import encode, read
from rldk_tracking.trackers.spool import Spool

mlflow = pytest.importorskip("mlflow", reason="needs mlflow")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A client of an sqlite store."""
    folder = tmp_path_factory.mktemp("store")
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    client.create_experiment("tests", artifact_location=(folder / "artifacts").as_uri())
    return client


def alert() -> Alert:
    return Alert("kl.high", "warning", "firing", 4, 3, 0.3, 0.2, "KL is 0.3.", "Lower it.", {}, "rldk/kl/ref_k1")


def left(folder: Path, to: dict[str, str], final: bool, tracker: str = "mlflow", trying: int = 0) -> Path:
    """What a training leaves that made five steps."""
    spool = Spool(folder / "rldk" / f"undelivered-{tracker}.jsonl", tracker)
    spool.note(to)
    now = time.time()
    calls: list[tuple[str, tuple[Any, ...]]] = [("log", ({"rldk/a": step / 2}, step)) for step in range(1, 6)]
    calls.append(("alert", (alert(),)))
    if final:
        calls.append(("status", ("finished", {"rldk/a": 2.5}, 5)))
    ends = [spool.append([encode(method, args, now)]) for method, args in calls]
    if trying:
        spool.trying(ends[trying - 1])
    spool.close()
    return spool.path


@pytest.mark.parametrize("final", [True, False])
def test_rows_alerts_and_status_reach_the_run(
    store: Any, tmp_path: Path, final: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = store.create_run("1").info.run_id
    path = left(tmp_path, {"run_id": run_id, "tracking_uri": store.tracking_uri}, final)
    assert main(["sync", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    points = [(m.step, m.value) for m in store.get_metric_history(run_id, "rldk/a")]
    assert points == [(step, step / 2) for step in range(1, 6)]
    tags = store.get_run(run_id).data.tags
    assert tags["rldk.alerts.open"] == "kl.high"
    assert tags["rldk.status"] == ("finished" if final else "crashed")
    assert tags["rldk.step"] == "5"
    assert ("killed after step 5" in told) is not final
    assert not path.exists()


def test_sent_twice_is_stored_once(store: Any, tmp_path: Path) -> None:
    """A kill between the store's answer and the note of it leaves what the store has already."""
    run_id = store.create_run("1").info.run_id
    path = left(tmp_path, {"run_id": run_id, "tracking_uri": store.tracking_uri}, True, trying=5)
    copy = path.read_bytes()
    assert main(["sync", str(tmp_path)]) == 0
    path.write_bytes(copy)
    assert main(["sync", str(tmp_path)]) == 0
    assert [m.step for m in store.get_metric_history(run_id, "rldk/a")] == [1, 2, 3, 4, 5]


def test_an_alert_that_may_have_reached_slack_is_not_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RLDK_SLACK_WEBHOOK_URL", "http://127.0.0.1:9/services/T0/B0/secret")
    monkeypatch.setenv("RLDK_ALLOW_LOOPBACK_WEBHOOK", "1")
    path = left(tmp_path, {}, True, tracker="slack", trying=6)
    assert main(["sync", str(path), "--timeout", "5"]) == 0
    assert "may have arrived" in capsys.readouterr().out
    kept = list(read(path.with_name("uncertain-slack.jsonl")))
    assert [record["rule"] for record in kept if record["type"] == "alert"] == ["kl.high"]


def test_without_a_run_it_says_what_is_needed(store: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = left(tmp_path, {"tracking_uri": store.tracking_uri}, False)
    assert main(["sync", str(tmp_path)]) == 1
    assert "--run-id" in capsys.readouterr().out
    assert path.exists()
    run_id = store.create_run("1").info.run_id
    assert main(["sync", str(tmp_path), "--run-id", run_id]) == 0
    assert len(store.get_metric_history(run_id, "rldk/a")) == 5


def test_what_cannot_be_read_or_sent_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "undelivered-mlflow.jsonl").write_text("{}\n")
    left(tmp_path, {}, True, tracker="telegraph")
    assert main(["sync", str(tmp_path)]) == 1
    told = capsys.readouterr().out
    assert "not a file of calls" in told
    assert "telegraph" in told
    assert len(list(tmp_path.rglob("undelivered-*"))) == 2


def test_nothing_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sync", str(tmp_path)]) == 0
    assert "Nothing waits" in capsys.readouterr().out
