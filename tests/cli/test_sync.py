"""What is left of trainings whose courier could not finish, sent by hand."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rldk_tracking.cli.main import main
from rldk_tracking.courier import ENVIRONMENT
from rldk_tracking.journal.journal import Journal
from rldk_tracking.journal.offset import Offset, offset_path
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.base import Tracker
from rldk_tracking.trackers.lines import LineFile
from rldk_tracking.trackers.mlflow import MLflowTracker
from rldk_tracking.trackers.slack import SlackNotifier
from tests.journal.conftest import an_alert
from tests.test_courier import answering as answering_with
from tests.trackers.conftest import mlflow_server, mlflow_template
from tests.trackers.test_mlflow_server import answering
from tests.trackers.test_slack import Webhook, webhook

mlflow = pytest.importorskip("mlflow", reason="needs mlflow")
__all__ = ["mlflow_server", "mlflow_template", "webhook"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A client of an sqlite store."""
    folder = tmp_path_factory.mktemp("store")
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    client.create_experiment("tests", artifact_location=(folder / "artifacts").as_uri())
    return client


@pytest.fixture(autouse=True)
def _configured(store: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The store is that of this user."""
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: store.tracking_uri)
    yield
    logging.getLogger().handlers[:] = [h for h in logging.getLogger().handlers if "StreamHandler" not in repr(h)]


def left(folder: Path, *trackers: Tracker, final: bool = True, pid: int = 2**22 + 1) -> Path:
    """What a training leaves that made five steps and was gone before anything was sent."""
    for tracker in trackers:
        tracker.open(RunInfo())
    journal = Journal.open(folder / "_rldk", [(tracker.name, tracker.address()) for tracker in trackers])
    journal.begin(RunInfo(name="a try"), 1, {}, None)
    for tracker in trackers:
        journal.destination(tracker.name, tracker)
    for step in range(1, 6):
        journal.row(step, {"rldk/a": step / 2}, [an_alert(4)] if step == 4 else [])
    if final:
        journal.end("finished", 5)
    journal.close()
    lines = journal.path.read_text().splitlines()
    begin = json.loads(lines[0]) | {"pid": pid, "created": 1.0}
    journal.path.write_text("\n".join([json.dumps(begin), *lines[1:]]) + "\n")
    return journal.path


def mlflow_run(store: Any, run_id: str | None = None) -> tuple[str, MLflowTracker]:
    run_id = run_id or store.create_run("1").info.run_id
    return str(run_id), MLflowTracker(run_id, store.tracking_uri)


def points(store: Any, run_id: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in store.get_metric_history(run_id, "rldk/a")]


EVERY = [(step, step / 2) for step in range(1, 6)]


@pytest.mark.parametrize("final", [True, False])
def test_rows_alerts_and_status_reach_the_run(
    store: Any, tmp_path: Path, final: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id, tracker = mlflow_run(store)
    left(tmp_path, tracker, final=final)
    assert main(["sync", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert points(store, run_id) == EVERY
    tags = store.get_run(run_id).data.tags
    assert tags["rldk.alerts.open"] == "kl.high"
    assert tags["rldk.status"] == ("finished" if final else "crashed")
    assert tags["rldk.step"] == "5"
    assert ("ended without a word after step 5; its status is now crashed" in said) is not final
    assert main(["sync", str(tmp_path)]) == 0
    assert "Nothing waits" in capsys.readouterr().out
    assert points(store, run_id) == EVERY


def test_sent_twice_is_stored_once(store: Any, tmp_path: Path) -> None:
    """A kill between the store's answer and the note of it."""
    run_id, tracker = mlflow_run(store)
    path = left(tmp_path, tracker)
    assert main(["sync", str(tmp_path)]) == 0
    offset_path(path, "mlflow").unlink()
    assert main(["sync", str(path)]) == 0
    assert points(store, run_id) == EVERY
    table = Path(store.download_artifacts(run_id, "rldk/alerts.json", str(tmp_path)))
    assert len(json.loads(table.read_text())["data"]) == 1


def test_slack_gets_what_cannot_have_arrived(
    tmp_path: Path, webhook: Webhook, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RLDK_SLACK_WEBHOOK_URL", webhook.url)
    monkeypatch.setenv("RLDK_ALLOW_LOOPBACK_WEBHOOK", "1")
    path = left(tmp_path, SlackNotifier())
    text = path.read_bytes()
    doubtful = Offset(offset_path(path, "slack"), position=text[: text.index(b'"alerts"')].rfind(b"\n") + 1)
    doubtful.part, doubtful.trying = 1, True
    doubtful.save()
    assert main(["sync", str(path), "--timeout", "5"]) == 0
    assert "1 calls may have arrived before, and are not repeated" in capsys.readouterr().out
    assert webhook.messages == []
    doubtful.path.unlink()
    assert main(["sync", str(path), "--timeout", "5"]) == 0
    assert len(webhook.messages) == 1
    monkeypatch.delenv("RLDK_SLACK_WEBHOOK_URL")
    assert main(["sync", str(path)]) == 0, "where nothing waits no address is needed"
    doubtful.path.write_text("not an offset")
    monkeypatch.setenv("RLDK_SLACK_WEBHOOK_URL", webhook.url)
    assert main(["sync", str(path)]) == 0
    assert len(webhook.messages) == 1, "an offset that was lost repeats no message"


def test_without_the_address_it_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left(tmp_path, SlackNotifier("https://hooks.slack.com/services/T0/B0/SECRET"))
    assert main(["sync", str(tmp_path), "--timeout", "5"]) == 1
    said = capsys.readouterr().out
    assert "RLDK_SLACK_WEBHOOK_URL" in said and "SECRET" not in said


def test_a_training_without_a_run(store: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left(tmp_path, final=False)
    assert main(["sync", str(tmp_path)]) == 1
    assert "--run-id" in capsys.readouterr().out
    run_id = store.create_run("1").info.run_id
    assert main(["sync", str(tmp_path), "--run-id", run_id]) == 0
    assert points(store, run_id) == EVERY


@pytest.mark.parametrize("status", [503, 307])
def test_what_a_busy_or_redirecting_server_says_is_not_believed(
    status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither that it will be back in an hour, nor that rows and the password belong to somebody else."""
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    with answering_with(200, {}) as (elsewhere, asked):
        headers = {"Retry-After": "3600"} if status == 503 else {"Location": f"{elsewhere}/api"}
        with answering_with(status, headers) as (place, own):
            left(tmp_path, MLflowTracker("0" * 32, place))
            start = time.monotonic()
            assert main(["sync", str(tmp_path), "--tracking-uri", place, "--timeout", "1"]) == 1
    assert time.monotonic() - start < 30
    assert own and not asked


@pytest.mark.parametrize("answer", ["y", "n", None])
def test_a_server_that_the_journal_alone_names(
    store: Any,
    tmp_path: Path,
    answer: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")
    if answer is not None:
        monkeypatch.setattr(sys, "stdin", _Terminal())
        monkeypatch.setattr("builtins.input", lambda text: (print(text), answer)[1])
    asked: list[str] = []
    with answering(lambda path: (asked.append(path), (200, b"{}"))[1]) as place:
        left(tmp_path, MLflowTracker("0" * 32, place))
        assert main(["sync", str(tmp_path), "--timeout", "1"]) == 1
    said = capsys.readouterr().out
    assert bool(asked) is (answer == "y")
    assert place in said
    if answer != "y":
        assert "--tracking-uri" in said
    assert "0 calls sent to mlflow, 6 records stay here." in said, "five rows and the end"


def test_a_server_that_the_offset_alone_names(store: Any, tmp_path: Path) -> None:
    asked: list[str] = []
    with answering(lambda path: (asked.append(path), (200, b"{}"))[1]) as place:
        _, tracker = mlflow_run(store)
        path = left(tmp_path, tracker)
        Offset(offset_path(path, "mlflow"), to={"tracking_uri": place}).save()
        assert main(["sync", str(tmp_path), "--timeout", "1"]) == 1
    assert asked == []


def test_a_server_that_has_moved(store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id, _ = mlflow_run(store)
    left(tmp_path, MLflowTracker(run_id, "http://127.0.0.1:9"))
    assert main(["sync", str(tmp_path), "--tracking-uri", store.tracking_uri]) == 0
    assert points(store, run_id) == EVERY


def test_one_bad_file_stops_no_other(store: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_id, tracker = mlflow_run(store)
    bad = left(tmp_path / "a", tracker)
    begin = json.loads(bad.read_text().splitlines()[0])
    (tmp_path / "a" / "run.jsonl").write_bytes(os.urandom(5000))
    odd = [
        {"type": "begin", "time": 1, "pid": "x", "created": [], "host": 3, "rules": [1], "run": 7},
        begin | {"pid": 10**30, "created": 1e300},
        {"type": "destination", "time": 1, "id": "../../up", "tracker": "mlflow", "to": {}},
        {"type": "destination", "time": 1, "id": "telegraph", "tracker": "telegraph", "to": 3},
        {"type": "destination", "time": 1, "id": None, "tracker": None},
        {"type": "metrics", "time": 1, "step": None, "metrics": {}},
        {"type": "metrics", "time": 1, "step": 1, "metrics": {"a": 1e400}},
    ]
    text = "".join(json.dumps(record) + "\n" for record in odd) + "[" * 100_000 + "\n"
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "run.jsonl").write_text(text)
    good_id, good = mlflow_run(store)
    left(tmp_path / "c", good)
    (tmp_path / "d" / "run.jsonl").mkdir(parents=True)
    assert main(["sync", str(tmp_path), "--timeout", "10"]) == 1
    said = capsys.readouterr().out
    assert points(store, good_id) == EVERY
    assert "'telegraph'" in said
    assert "is passed over: a number is none" in said or "is passed over" in said
    assert not list(tmp_path.rglob("*up*"))
    assert points(store, run_id) == EVERY


def test_a_run_that_was_deleted_and_restored(store: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_id, tracker = mlflow_run(store)
    left(tmp_path, tracker)
    store.delete_run(run_id)
    assert main(["sync", str(tmp_path), "--timeout", "20"]) == 1
    assert "A later sync tries them again" in capsys.readouterr().out
    store.restore_run(run_id)
    assert main(["sync", str(tmp_path)]) == 0
    assert points(store, run_id) == EVERY
    assert main(["sync", str(tmp_path)]) == 0
    assert "Nothing waits" in capsys.readouterr().out


def test_a_training_or_a_courier_at_work(store: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_id, tracker = mlflow_run(store)
    path = left(tmp_path, tracker, final=False)
    lock = LineFile(path.with_name("run.courier.lock"))
    assert lock.try_lock()
    assert main(["sync", str(tmp_path)]) == 0
    assert "its courier is at work" in capsys.readouterr().out
    lock.close()
    writer = Journal.open(tmp_path / "_rldk", [("mlflow", tracker.address())], resumed_at=5)
    assert writer.path == path
    assert main(["sync", str(tmp_path)]) == 0
    assert "the training that writes it is running" in capsys.readouterr().out
    writer.close()
    assert points(store, run_id) == []


def test_a_journal_of_another_machine(store: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its process cannot be looked for, and may be training still."""
    run_id, tracker = mlflow_run(store)
    path = left(tmp_path, tracker, final=False)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps(json.loads(lines[0]) | {"host": "node-7"}), *lines[1:]]) + "\n")
    assert main(["sync", str(tmp_path)]) == 0
    assert "node-7 was writing it within the last hour" in capsys.readouterr().out
    os.utime(path, (time.time() - 7200,) * 2)
    assert main(["sync", str(tmp_path)]) == 0
    assert points(store, run_id) == EVERY


def test_nothing_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sync", str(tmp_path)]) == 0
    assert "Nothing waits" in capsys.readouterr().out
    assert main(["sync", str(tmp_path / "none.jsonl")]) == 1


def test_a_server_that_has_alerts_of_the_run_already(mlflow_server: Any, tmp_path: Path) -> None:
    """Its artifacts go through itself, as by default, and it is not the server that this process is set to."""
    client = mlflow.MlflowClient(tracking_uri=mlflow_server.uri)
    run_id = client.create_run("0").info.run_id
    first = MLflowTracker(run_id, mlflow_server.uri)
    first.open(RunInfo())
    first.alert(an_alert(1))
    first.close()
    left(tmp_path, MLflowTracker(run_id, mlflow_server.uri))
    assert main(["sync", str(tmp_path), "--tracking-uri", mlflow_server.uri, "--timeout", "60"]) == 0
    assert points(client, run_id) == EVERY
    table = json.loads(Path(client.download_artifacts(run_id, "rldk/alerts.json", str(tmp_path))).read_text())
    assert [row[table["columns"].index("step")] for row in table["data"]] == [1, 4]


def test_a_run_for_what_had_none_beside_a_channel(store: Any, tmp_path: Path, webhook: Webhook) -> None:
    """The channel had an address from the start; the tracker never joined a run."""
    left(tmp_path, SlackNotifier(webhook.url, allow_loopback=True))
    run_id = store.create_run("1").info.run_id
    main(["sync", str(tmp_path), "--run-id", run_id, "--timeout", "20"])
    assert points(store, run_id) == EVERY


def test_what_slack_refused_is_sent_when_its_address_is_mended(
    tmp_path: Path, webhook: Webhook, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RLDK_SLACK_WEBHOOK_URL", webhook.url)
    monkeypatch.setenv("RLDK_ALLOW_LOOPBACK_WEBHOOK", "1")
    left(tmp_path, SlackNotifier())
    webhook.answers = [(403, {})] * 4  # the alert and the end, twice
    assert main(["sync", str(tmp_path), "--timeout", "20"]) == 1
    assert "A later sync tries them again" in capsys.readouterr().out
    assert main(["sync", str(tmp_path), "--timeout", "20"]) == 0
    assert len(webhook.messages) == 1
    assert main(["sync", str(tmp_path)]) == 0
    assert "Nothing waits" in capsys.readouterr().out


class _Terminal:
    def isatty(self) -> bool:
        return True


def test_the_working_folder_is_named_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["sync", "."]) == 0
    assert capsys.readouterr().out == f"Nothing waits in {tmp_path}\n"


def test_pipes_and_what_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "run.jsonl")
    assert main(["sync", str(tmp_path)]) == 0
    for path, why in ((tmp_path / "run.jsonl", "not a regular file"), (tmp_path / "none", "no such file or folder")):
        capsys.readouterr()
        assert main(["sync", str(path)]) == 1
        said = capsys.readouterr()
        assert (said.out, said.err) == ("", f"{path}: {why}.\n")


def test_names_of_folders_do_not_command_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "a\x1b[2K\rNothing waits\n"
    folder.mkdir()
    (folder / "run.jsonl").write_text('{"type": "metrics"}\n')
    main(["sync", str(folder)])
    said = capsys.readouterr()
    assert all(sign.isprintable() or sign == "\n" for sign in said.out + said.err)
    assert "\\x1b[2K" in said.out
