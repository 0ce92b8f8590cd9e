from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import TrainingArguments

from rldk_tracking.health.alert import Alert
from rldk_tracking.messages.packages import install_line
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.base import RejectedError, Row
from rldk_tracking.trackers.wandb import WandbTracker, uploaded
from tests.trackers.wandb_backend import WandbBackend
from tests.trackers.wandb_log import BLOCK, load_finished, messages

wandb = pytest.importorskip("wandb", reason="needs wandb")


@pytest.fixture
def settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """W&B keeps its files in the test's folder, and forgets the test's settings afterwards."""
    for name in ("WANDB_DIR", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    wandb.teardown()
    yield monkeypatch
    if wandb.run is not None:
        wandb.finish()
    wandb.teardown()


@pytest.fixture
def offline(settled: pytest.MonkeyPatch) -> None:
    settled.setenv("WANDB_MODE", "offline")


@pytest.fixture
def backend(settled: pytest.MonkeyPatch) -> Iterator[WandbBackend]:
    server = WandbBackend()
    settled.setenv("WANDB_MODE", "online")
    settled.setenv("WANDB_BASE_URL", server.url)
    settled.setenv("WANDB_API_KEY", "x" * 40)
    yield server
    if wandb.run is not None:
        wandb.finish()
    server.close()


def like_transformers(run: Any) -> None:
    """What WandbCallback sets up in every run."""
    run.define_metric("train/global_step")
    run.define_metric("*", step_metric="train/global_step", step_sync=True)


def test_each_row_arrives_with_its_step(offline: None, tmp_path: Path) -> None:
    run = wandb.init(project="p")
    like_transformers(run)
    tracker = WandbTracker()
    tracker.open(RunInfo())
    for step in range(1, 301):
        # TRL logs rows of its own in between, which move W&B's step on.
        run.log({"profiling/Time taken": 0.1})
        run.log({"train/loss": 1.0 / step, "train/global_step": step})
        tracker.log({"rldk/kl/ref_k1": step / 7, "rldk/reward/mean": float(step)}, step)
    tracker.status("finished", {}, 300)
    tracker.close()
    assert wandb.run is run, "a run that it did not start must not be ended"
    wandb.finish()
    log = load_finished(tmp_path)
    assert log.series("rldk/kl/ref_k1") == [(step, step / 7) for step in range(1, 301)]
    assert log.series("rldk/reward/mean") == [(step, float(step)) for step in range(1, 301)]
    charts = [any(key.startswith("rldk/charts/") for key in row) and "rldk/kl/ref_k1" not in row for row in log.rows]
    rows = [row for row, of_charts_alone in zip(log.rows, charts, strict=True) if not of_charts_alone]
    assert len(rows) == 900, "our rows are rows of their own"
    for key in ("rldk/kl/ref_k1", "rldk/reward/mean"):
        assert log.step_metrics[key] == "train/global_step"
    assert log.summary["rldk/status"] == "finished"


def test_steps_that_go_back_are_kept(offline: None, tmp_path: Path) -> None:
    wandb.init(project="p")
    tracker = WandbTracker()
    tracker.open(RunInfo())
    for step in (5, 3, 4):
        tracker.log({"rldk/a": float(step)}, step)
    wandb.finish()
    log = load_finished(tmp_path)
    assert log.series("rldk/a") == [(5, 5.0), (3, 3.0), (4, 4.0)]
    assert log.summary["train/global_step"] == 5, "where a resumed training goes on"


def test_what_log_is_given_is_stored_of_a_row_only_what_is_ours(offline: None, tmp_path: Path) -> None:
    wandb.init(project="p")
    tracker = WandbTracker()
    tracker.open(RunInfo())
    tracker.log({"mine": 1.0}, 1)
    tracker.log_rows([Row.of({"rldk/a": 2.0, "tools/calls": 3.0}, 2, 0.0)])
    wandb.finish()
    log = load_finished(tmp_path)
    assert (log.series("mine"), log.series("rldk/a"), log.series("tools/calls")) == ([(1, 1.0)], [(2, 2.0)], [])


def test_alerts_are_recorded_offline(offline: None, tmp_path: Path, make_alert: Callable[..., Alert]) -> None:
    wandb.init(project="p")
    tracker = WandbTracker()
    tracker.open(RunInfo())
    tracker.alert(make_alert("nan." + "w" * 100, severity="critical"))
    tracker.alert(make_alert("reward.saturated", severity="info", value=None, threshold=None))
    tracker.alert(make_alert("kl.high"))
    tracker.alert(make_alert("kl.high", step=20, state="resolved"))
    tracker.alert(make_alert("kl.high", step=30, times=2, notify=False))
    tracker.alert(make_alert("kl.high", step=40, state="resolved", times=2, notify=False))
    wandb.finish()
    log = load_finished(tmp_path)
    assert [level for _, _, level in log.alerts] == ["ERROR", "INFO", "WARN", "INFO"]
    assert all(len(title) < 64 for title, _, _ in log.alerts)
    assert log.alerts[3][0] == "rldk resolved: kl.high"
    title, text, _ = log.alerts[2]
    assert title == "rldk warning: kl.high"
    for fact in ("Step: 12", "first seen at 10", "Value: 0.31", "Threshold: 0.2", "Advice: Lower", "rldk/kl/ref_k1"):
        assert fact in text
    assert "Value" not in log.alerts[1][1]
    assert log.summary["rldk/alerts/open"] == "nan." + "w" * 100 + ",reward.saturated"


def test_tables_and_figures(offline: None, tmp_path: Path) -> None:
    wandb.init(project="p")
    tracker = WandbTracker()
    tracker.open(RunInfo())
    tracker.log_table("rldk/samples", ["text", "reward"], [["a", 1.5], ["b", None], [3, "mixed"]], 7)
    tracker.log_figure("rldk/curve", "<svg xmlns='http://www.w3.org/2000/svg'/>", 7)
    wandb.finish()
    log = load_finished(tmp_path)
    assert log.series("rldk/samples/_type") == [(7, "table-file")]
    assert log.series("rldk/samples/nrows") == [(7, 3)]
    assert log.series("rldk/curve/_type") == [(7, "html-file")]


def test_after_the_run_was_finished(offline: None, make_alert: Callable[..., Alert]) -> None:
    wandb.init(project="p")
    tracker = WandbTracker()
    tracker.open(RunInfo())
    tracker.log({"rldk/a": 1.0}, 1)
    assert {"id", "project"} <= set(tracker.address())
    wandb.finish()
    for call in (lambda: tracker.log({"rldk/a": 1.0}, 2), lambda: tracker.alert(make_alert())):
        with pytest.raises(RejectedError):
            call()


def test_one_tracker_serves_two_trainings(offline: None, tmp_path: Path) -> None:
    tracker = WandbTracker()
    for name in ("first", "second"):
        run = wandb.init(project="p", dir=tmp_path / name)
        tracker.open(RunInfo())
        tracker.log({"rldk/" + name: 1.0}, 1)
        tracker.close()
        run.finish()
    for name in ("first", "second"):
        assert load_finished(tmp_path / name).series("rldk/" + name) == [(1, 1.0)]


def test_a_run_that_is_given(offline: None, tmp_path: Path) -> None:
    run = wandb.init(project="p")
    tracker = WandbTracker(run=run)
    assert tracker.joined
    tracker.open(RunInfo())
    tracker.log({"rldk/a": 1.0}, 1)
    tracker.close()
    assert tracker.joined
    assert tracker.url() is None, "an offline run has no page"
    wandb.finish()
    assert load_finished(tmp_path).series("rldk/a") == [(1, 1.0)]


def test_online(backend: WandbBackend, make_alert: Callable[..., Alert]) -> None:
    run = wandb.init(project="p", settings=wandb.Settings(x_file_stream_transmit_interval=1))
    like_transformers(run)
    tracker = WandbTracker()
    tracker.open(RunInfo())
    assert tracker.url() is not None
    assert tracker.url() == run.url
    for step in range(1, 51):
        run.log({"profiling/x": 1.0})
        tracker.log({"rldk/a": float(step)}, step)
    tracker.alert(make_alert(severity="critical"))
    tracker.close()
    wandb.finish()
    ours = [(row["train/global_step"], row["rldk/a"]) for row in backend.rows if "rldk/a" in row]
    assert ours == [(step, float(step)) for step in range(1, 51)]
    (alert,) = backend.alerts
    assert (alert["title"], alert["severity"]) == ("rldk critical: kl.high", "ERROR")
    assert "Step: 12" in alert["text"]
    assert backend.operations.count("UpsertBucket") >= 1


@pytest.mark.skipif(
    tuple(map(int, wandb.__version__.split(".")[:2])) < (0, 31),
    reason="this W&B waits until the server has made the artifact of a table, which the one here cannot do",
)
def test_the_pages_address_is_said_at_the_beginning_and_at_the_end(
    backend: WandbBackend, make_alert: Callable[..., Alert], capsys: pytest.CaptureFixture[str]
) -> None:
    run = wandb.init(project="p", settings=wandb.Settings(x_file_stream_transmit_interval=1))
    tracker = WandbTracker()
    tracker.open(RunInfo())
    for status in ("running", "warning"):
        tracker.status(status, {}, 0)
    begin = capsys.readouterr().err
    assert begin.count(run.url) == 1
    assert "rldk-tracking charts wandb tester/p" in begin
    tracker.log({"rldk/health/score": 0.5}, 12)
    tracker.alert(make_alert())
    tracker.status("finished", {}, 12)
    end = capsys.readouterr().err
    assert end.count(run.url) == 1
    tracker.close()


def test_a_server_that_fails_midway_keeps_nobody_waiting(
    backend: WandbBackend, make_alert: Callable[..., Alert]
) -> None:
    run = wandb.init(project="p", settings=wandb.Settings(x_file_stream_transmit_interval=1, finish_timeout=2))
    tracker = WandbTracker()
    tracker.open(RunInfo())
    tracker.log({"rldk/a": 0.0}, 0)
    backend.fail = 500
    longest = 0.0
    for step in range(1, 200):
        before = time.perf_counter()
        tracker.log({"rldk/a": float(step)}, step)
        longest = max(longest, time.perf_counter() - before)
        time.sleep(0.002)
    tracker.alert(make_alert())
    tracker.close()
    assert longest < 0.050, "it is called on the training thread, but for pictures it waits for nobody"
    backend.fail = None
    run.finish()


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match=re.escape(install_line("wandb"))):
        WandbTracker()


def test_the_log_reader_joins_fragments_over_blocks() -> None:
    """Checked against a file put together by hand: the reader is an oracle of other tests."""
    from struct import pack

    header = b":W&B" + b"\xe1\xbe\x00"
    first, second = b"a" * (BLOCK - 7 - 7 - 3), b"b" * 40_000
    data = header + pack("<IHB", 0, len(first), 1) + first + b"\0" * 3
    room = BLOCK - 7
    data += pack("<IHB", 0, room, 2) + second[:room] + pack("<IHB", 0, len(second) - room, 4) + second[room:]
    assert list(messages(data)) == [first, second]
    assert list(messages(data[:-1])) == [first], "a tail that is not written yet"
    with pytest.raises(ValueError, match="transaction log"):
        list(messages(b"something else"))


@pytest.fixture
def run(offline: None) -> Any:
    return wandb.init(project="p", name="given")


def artifacts(folder: Path) -> list[Any]:
    """What the run's log says of artifacts."""
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.finish()
    wandb.teardown()
    load_finished(folder)  # which waits for the log's end
    (log,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    found = []
    for data in messages(log.read_bytes()):
        record = Record.FromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "artifact":
            found.append(record.artifact)
        elif kind == "request" and record.request.WhichOneof("request_type") == "log_artifact":
            found.append(record.request.log_artifact.artifact)
    return found


def test_each_checkpoint_is_a_version_without_weights(run: Any, tmp_path: Path) -> None:
    tracker = WandbTracker()
    tracker.open(RunInfo())
    for step, score in ((100, 1.0), (200, 0.5)):
        metrics = {"rldk/checkpoint/score": score, "rldk/checkpoint/part/finite": 1.0}
        facts = {"verdict": "healthy", "path": f"out/checkpoint-{step}"}
        tracker.log_checkpoint(f"checkpoint-{step}", metrics, facts, step)
    tracker.close()
    run_id = run.id
    found = artifacts(tmp_path)
    assert [set(artifact.aliases) for artifact in found] == [{"latest", "checkpoint-100"}, {"latest", "checkpoint-200"}]
    assert {(artifact.name, artifact.type) for artifact in found} == {
        (f"checkpoint-health-{run_id}", "checkpoint-health")
    }
    metadata = [json.loads(artifact.metadata) for artifact in found]
    assert [held["score"] for held in metadata] == [1.0, 0.5]
    assert metadata[0] == {
        "step": 100,
        "verdict": "healthy",
        "path": "out/checkpoint-100",
        "score": 1.0,
        "part_finite": 1.0,
    }
    files = [{entry.path: entry.size for entry in artifact.manifest.contents} for artifact in found]
    assert all(set(held) == {"checkpoint.json"} and held["checkpoint.json"] < 1000 for held in files)
    assert len({artifact.digest for artifact in found}) == 2, "two with one digest would be one version"


def test_it_names_the_artifact_that_transformers_makes(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real WandbCallback saves; its artifact is the one that ours names."""
    from transformers import TrainerControl, TrainerState
    from transformers.integrations import WandbCallback

    monkeypatch.setenv("WANDB_LOG_MODEL", "checkpoint")
    folder = tmp_path / "out" / "checkpoint-20"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    state = TrainerState(global_step=20, epoch=1.0)
    callback = WandbCallback()
    callback._initialized = True
    named = []
    for run_name in (None, "given"):
        args = TrainingArguments(str(tmp_path / "out"), run_name=run_name, report_to=[], use_cpu=True)
        callback.on_save(args, state, TrainerControl())
        named.append(uploaded(run, args, 20))
    for name, artifact in zip(named, artifacts(tmp_path), strict=True):
        assert name in {f"{artifact.name}:{alias}" for alias in artifact.aliases}


def test_without_uploads_no_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = SimpleNamespace(id="1", name="given")
    args = TrainingArguments(str(tmp_path), report_to=[], use_cpu=True)
    for setting in ("false", "end"):
        monkeypatch.setenv("WANDB_LOG_MODEL", setting)
        assert uploaded(run, args, 20) is None
    monkeypatch.setenv("WANDB_LOG_MODEL", "checkpoint")
    assert uploaded(run, None, 20) is None
