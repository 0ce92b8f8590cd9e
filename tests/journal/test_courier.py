"""Real trainings, real couriers, real stores: what arrives when one or the other is killed or away."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from rldk_tracking.cli.main import main
from rldk_tracking.journal import courier as courier_module
from rldk_tracking.journal.courier import Follower
from rldk_tracking.journal.offset import Target
from tests.journal.conftest import Training, an_alert, eventually, started, steps_in
from tests.trackers.conftest import free_port

pytestmark = pytest.mark.slow

mlflow = pytest.importorskip("mlflow", reason="needs mlflow")
Train = Callable[..., Training]


@pytest.fixture
def run_id(store: Any) -> str:
    return str(store.client.create_run(store.experiment_id).info.run_id)


def tags(store: Any, run_id: str) -> dict[str, str]:
    return dict(store.client.get_run(run_id).data.tags)


def test_a_training_that_ends(store: Any, run_id: str, train: Train) -> None:
    training = train(uri=store.uri, run_id=run_id, alert_at=5)
    assert training.wait() == 0
    assert training.delivered.startswith("delivered True")
    assert steps_in(store, run_id) == list(range(1, 21))
    assert tags(store, run_id)["rldk.status"] == "finished"
    assert tags(store, run_id)["rldk.alerts.open"] == "kl.high"
    assert store.client.get_run(run_id).info.status == "RUNNING", "a run that it did not make is not ended"
    assert "rldk: charts" in training.errors(), "what is announced reaches the terminal of the training"
    assert training.courier is not None
    eventually(lambda: training.courier is not None and not training.courier.is_running(), 10)


def test_the_trainer_is_killed_in_the_middle_of_a_line(store: Any, run_id: str, train: Train) -> None:
    training = train(uri=store.uri, run_id=run_id, kill_at=15, alert_at=14)
    assert training.wait() == -signal.SIGKILL
    eventually(lambda: tags(store, run_id).get("rldk.status") == "crashed")
    assert steps_in(store, run_id) == list(range(1, 15)), "without `sync`"
    assert tags(store, run_id)["rldk.step"] == "14"
    eventually(lambda: training.offset()["closed"], 5)
    assert training.courier is not None
    eventually(lambda: training.courier is not None and not training.courier.is_running(), 10)


def test_a_killed_training_that_goes_on(store: Any, run_id: str, train: Train) -> None:
    """It begins at an older checkpoint: no row twice, no alert twice, and the torn line costs nothing behind it."""
    assert train(uri=store.uri, run_id=run_id, kill_at=15, alert_at=12).wait() == -signal.SIGKILL
    again = train(uri=store.uri, run_id=run_id, resumed_at=10, steps=20)
    assert again.wait() == 0
    assert steps_in(store, run_id) == list(range(1, 21))
    assert tags(store, run_id)["rldk.status"] == "finished"
    assert again.offset()["skipped"][0][1] == "it is not JSON, or torn"
    assert [path.name for path in (again.folder / "_rldk").glob("*.jsonl")] == ["run.jsonl"]


def test_the_courier_is_killed_and_started_again(
    store: Any, run_id: str, train: Train, webhook: Any, make_alert: Any
) -> None:
    training = train(uri=store.uri, run_id=run_id, slack=webhook.url, until_enough=True, alert_at=10)
    training.until("step 5")
    first = training.courier
    assert first is not None
    eventually(lambda: len(webhook.messages) == 1 and training.offset().get("position", 0) > 1000)
    os.kill(first.pid, signal.SIGKILL)
    while training.courier == first:
        training.until("step")
    assert training.wait() == 0
    assert training.courier is not None and training.courier.pid != first.pid
    assert steps_in(store, run_id) == training.steps
    assert len(webhook.messages) == 1
    assert tags(store, run_id)["rldk.alerts.open"] == "kl.high", "what the first knew of the run the second knows too"


def test_a_courier_that_still_tries_leaves_the_journal_to_the_next(mlflow_server: Any, train: Train) -> None:
    """A training is killed while the server is away, and goes on: the first courier must not say that it crashed."""
    client = mlflow.MlflowClient(tracking_uri=mlflow_server.uri)
    run_id = client.create_run("0").info.run_id
    mlflow_server.kill()
    try:
        first = train(uri=mlflow_server.uri, run_id=run_id, kill_at=8)
        first.wait()
        time.sleep(3)
        assert first.courier is not None and first.courier.is_running()
        (first.folder / "enough").unlink()
        again = train(uri=mlflow_server.uri, run_id=run_id, resumed_at=5, until_enough=True)
        eventually(lambda: first.courier is not None and not first.courier.is_running(), 60)
    finally:
        mlflow_server.start()
    # Its own rows: those of the killed training come before what the journal says of its end.
    eventually(lambda: any(m.step > 8 for m in client.get_metric_history(run_id, "rldk/a")), 60)
    assert client.get_run(run_id).data.tags["rldk.status"] == "running"
    assert again.wait() == 0
    eventually(lambda: again.offset()["closed"], 60)
    steps = sorted(m.step for m in client.get_metric_history(run_id, "rldk/a"))
    assert steps == list(range(1, again.steps[-1] + 1))
    assert client.get_run(run_id).data.tags["rldk.status"] == "finished"


def test_both_are_killed_and_sync_completes(
    store: Any, run_id: str, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    training = train(uri=store.uri, run_id=run_id, steps=1000)
    training.until("step 8")
    assert training.courier is not None
    training.process.send_signal(signal.SIGSTOP)  # so that it starts no second courier
    os.kill(training.courier.pid, signal.SIGKILL)
    eventually(lambda: training.courier is not None and training.courier.status() == psutil.STATUS_ZOMBIE)
    training.process.send_signal(signal.SIGKILL)
    training.wait()
    last = training.steps[-1]
    assert main(["sync", str(training.folder)]) == 0
    said = capsys.readouterr().out
    assert f"ended without a word after step {last}; its status is now crashed" in said
    assert steps_in(store, run_id) == list(range(1, last + 1))
    assert tags(store, run_id)["rldk.status"] == "crashed"
    assert main(["sync", str(training.folder)]) == 0
    assert "Nothing waits" in capsys.readouterr().out
    assert steps_in(store, run_id) == list(range(1, last + 1))


def test_a_server_that_was_away_all_the_time(
    mlflow_server: Any, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    client = mlflow.MlflowClient(tracking_uri=mlflow_server.uri)
    run_id = client.create_run("0").info.run_id
    mlflow_server.kill()
    try:
        training = train(uri=mlflow_server.uri, run_id=run_id, steps=20, alert_at=3)
        assert training.wait() == 0
        assert training.delivered.startswith("delivered False")
        assert float(training.delivered.split()[2]) < 6, "a server that does not answer gets 3 s"
        assert training.courier is not None and training.courier.is_running(), "it goes on trying"
        training.courier.kill()
        eventually(lambda: training.courier is not None and not training.courier.is_running())
        assert main(["sync", str(training.folder), "--tracking-uri", mlflow_server.uri, "--timeout", "2"]) == 1
        said = capsys.readouterr().out
        assert "records stay here" in said and "now crashed" not in said
    finally:
        mlflow_server.start()
    assert main(["sync", str(training.folder), "--tracking-uri", mlflow_server.uri]) == 0
    assert sorted(m.step for m in client.get_metric_history(run_id, "rldk/a")) == list(range(1, 21))
    assert client.get_run(run_id).data.tags["rldk.alerts.open"] == "kl.high"


def test_a_server_that_comes_back_is_served_after_the_trainings_end(mlflow_server: Any, train: Train) -> None:
    client = mlflow.MlflowClient(tracking_uri=mlflow_server.uri)
    run_id = client.create_run("0").info.run_id
    mlflow_server.kill()
    try:
        training = train(uri=mlflow_server.uri, run_id=run_id, steps=10)
        training.wait()
    finally:
        mlflow_server.start()
    eventually(lambda: training.offset()["closed"], 60)
    assert sorted(m.step for m in client.get_metric_history(run_id, "rldk/a")) == list(range(1, 11))


def test_a_destination_that_hangs_holds_up_no_other(mlflow_server: Any, train: Train, webhook: Any) -> None:
    client = mlflow.MlflowClient(tracking_uri=mlflow_server.uri)
    run_id = client.create_run("0").info.run_id
    mlflow_server.signal(signal.SIGSTOP)
    try:
        training = train(uri=mlflow_server.uri, run_id=run_id, slack=webhook.url, steps=200, alert_at=2)
        eventually(lambda: len(webhook.messages) == 1, 20)
    finally:
        mlflow_server.signal(signal.SIGCONT)
        training.end()


def test_a_run_of_its_own_is_made_once(store: Any, train: Train) -> None:
    training = train(uri=store.uri, experiment="mine", until_enough=True)
    training.until("step 2")
    eventually(lambda: bool(training.offset().get("to", {}).get("run_id")))
    assert training.courier is not None
    os.kill(training.courier.pid, signal.SIGKILL)
    for _ in range(10):
        training.until("step")
    assert training.wait() == 0
    experiment = store.client.get_experiment_by_name("mine")
    (run,) = store.client.search_runs([experiment.experiment_id])
    assert training.said[-1] == f"run ['{run.info.run_id}']", "the training's tracker knows it"
    assert (run.info.status, run.info.run_name) == ("FINISHED", "a try")
    assert steps_in(store, run.info.run_id) == training.steps


def test_no_process_is_to_be_had(store: Any, run_id: str, train: Train) -> None:
    training = train(uri=store.uri, run_id=run_id, no_process=True)
    assert training.wait() == 0
    assert training.delivered.startswith("delivered True")
    assert steps_in(store, run_id) == list(range(1, 21))
    assert training.errors().count("in a thread of the training instead") == 1


def test_neither_process_nor_thread(store: Any, run_id: str, train: Train) -> None:
    training = train(uri=store.uri, run_id=run_id, no_process=True, no_thread=True, pause=0.01, timeout=1.0)
    assert training.wait() == 0
    assert training.errors().count("No thread can be started") == 1
    assert main(["sync", str(training.folder)]) == 0
    assert steps_in(store, run_id) == list(range(1, 21))


def test_two_couriers(store: Any, run_id: str, train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    training = train(uri=store.uri, run_id=run_id, steps=40)
    training.until("step 3")
    begin = json.loads(training.journal.read_text().splitlines()[0])
    target = Target("mlflow", "mlflow", {"run_id": run_id, "tracking_uri": store.uri})
    import logging

    second = Follower(training.journal, begin["pid"], begin["created"], [target], {}, logging.getLogger("second"))
    second.start()
    assert main(["sync", str(training.folder)]) == 0
    assert "is running" in capsys.readouterr().out
    assert training.wait() == 0
    second.join(20)
    assert not second.is_alive()
    assert steps_in(store, run_id) == list(range(1, 41))


def test_slack_hears_that_the_training_was_killed(webhook: Any, train: Train) -> None:
    training = train(slack=webhook.url, kill_at=10)
    assert training.wait() == -signal.SIGKILL
    eventually(lambda: len(webhook.messages) == 1)
    assert "run.crashed" in json.dumps(webhook.messages[0])
    eventually(lambda: training.offset("slack")["closed"], 10)
    again = train(slack=webhook.url, resumed_at=5, steps=8)
    assert again.wait() == 0
    assert len(webhook.messages) == 2, "and that it goes on"
    assert "resolved" in json.dumps(webhook.messages[1])


def test_slack_hears_of_a_crash_that_the_training_itself_wrote_down(webhook: Any, train: Train) -> None:
    training = train(slack=webhook.url, steps=5, status="crashed")
    assert training.wait() == 0
    assert training.delivered.startswith("delivered True")
    assert len(webhook.messages) == 1
    assert "run.crashed" in json.dumps(webhook.messages[0])


def test_slack_hears_of_each_alert_once(tmp_path: Path, webhook: Any, train: Train) -> None:
    training = train(slack=webhook.url, steps=5, alert_at=3)
    assert training.wait() == 0
    assert len(webhook.messages) == 1
    text = (tmp_path / "_rldk" / "run.jsonl").read_text() + json.dumps(training.offset("slack"))
    assert webhook.url not in text and "SECRET" not in text


def test_credentials_stay_out_of_files_and_command_lines(train: Train, tmp_path: Path) -> None:
    uri = f"http://me:hunter2@127.0.0.1:{free_port()}"
    training = train(uri=uri, run_id="0" * 32, steps=30, timeout=1.0)
    training.until("step 20")
    assert training.courier is not None
    assert "hunter2" not in " ".join(training.courier.cmdline())
    training.wait()
    eventually(lambda: bool(training.offset().get("fault")))
    for path in (tmp_path / "_rldk").iterdir():
        assert "hunter2" not in path.read_text(), path
        assert path.stat().st_mode & 0o077 == 0, path
    assert "hunter2" not in training.errors()


def test_a_watchdog_that_fails_costs_no_delivery(
    webhook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import logging

    from rldk_tracking.journal.watchdog import Watchdog

    monkeypatch.setattr(Watchdog, "look", lambda *_: 1 / 0)
    journal = started(tmp_path)
    journal.row(1, {"rldk/a": 1.0}, [an_alert()])
    journal.end("finished", 1)
    target = Target("slack", "slack", {}, {"url": webhook.url, "allow_loopback": "1"})
    me = psutil.Process()
    follower = Follower(journal.path, me.pid, me.create_time(), [target], {}, logging.getLogger("x"))
    follower.start()
    follower.join(20)
    assert len(webhook.messages) == 1
    assert caplog.text.count("not watched any more") == 1


def test_a_courier_whose_training_and_journal_are_gone_does_not_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a server that never answers; where only the training is gone it goes on for hours."""
    import logging

    monkeypatch.setattr(courier_module, "NOTHING_LEFT_S", 1.0)
    journal = started(tmp_path / "a")
    to = {"run_id": "0" * 32, "tracking_uri": f"http://127.0.0.1:{free_port()}"}
    me = psutil.Process()
    target = Target("mlflow", "mlflow", to)
    follower = Follower(journal.path, me.pid, me.create_time(), [target], {}, logging.getLogger("x"))
    monkeypatch.setattr(courier_module, "is_alive", lambda *_: False)
    follower.start()
    follower.join(3)
    assert follower.is_alive()
    shutil.rmtree(tmp_path / "a")
    follower.join(10)
    assert not follower.is_alive()
    journal.close()


def test_a_thread_that_cannot_be_had_for_a_destination_is_asked_for_again(
    webhook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import logging

    begin, refused = threading.Thread.start, []

    def refuse(self: threading.Thread) -> None:
        if self.name == "rldk-slack" and len(refused) < 2:
            refused.append(self.name)
            raise RuntimeError("can't start new thread")
        begin(self)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    journal = started(tmp_path)
    journal.row(1, {"rldk/a": 1.0}, [an_alert()])
    journal.end("finished", 1)
    target, me = Target("slack", "slack", {}, {"url": webhook.url, "allow_loopback": "1"}), psutil.Process()
    follower = Follower(journal.path, me.pid, me.create_time(), [target], {}, logging.getLogger("x"))
    follower.start()
    follower.join(20)
    assert not follower.is_alive()
    assert (len(refused), len(webhook.messages)) == (2, 1)
    assert caplog.text.count("No thread can be started for slack") == 1


def test_the_log_says_what_is_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import logging

    from rldk_tracking.rollout import RunInfo
    from rldk_tracking.trackers.mlflow import MLflowTracker

    tracker = MLflowTracker("0" * 32, f"http://127.0.0.1:{free_port()}")
    tracker.open(RunInfo())
    journal = started(tmp_path, tracker)
    journal.row(1, {"rldk/a": 1.0}, [an_alert()])
    journal.end("finished", 1)
    target = Target("mlflow", "mlflow", dict(tracker.address()))
    follower = Follower(journal.path, os.getpid(), psutil.Process().create_time(), [target], {}, logging.getLogger("x"))
    follower.deadline.limit(2.0)
    before = time.monotonic()
    follower.start()
    follower.join(10)
    assert time.monotonic() - before < 5
    assert "Not everything was delivered" in caplog.text
