"""What Trackio's own store holds: one run, every row at the trainer's step, the alerts, tables and pictures."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rldk_tracking.charts.heatmap import Heatmap
from rldk_tracking.health.alert import Alert
from rldk_tracking.health.rule import Rule
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.base import RejectedError, Row, UnavailableError
from rldk_tracking.trackers.trackio import TrackioBackend, TrackioTracker

trackio = pytest.importorskip("trackio", reason="needs trackio")

Read = Callable[[str], list[Any]]
RUNS = """select run_name, run_id from metrics union select run_name, run_id from alerts
    union select run_name, run_id from configs"""


def test_rows_and_alerts(trackio_courier: TrackioTracker, trackio_rows: Read, make_alert: Callable[..., Alert]) -> None:
    for _ in range(2):  # a trackio_courier that was killed sends again what it had sent
        trackio_courier.log_rows([Row({"rldk/a": step / 2}, step, 1000.0 + step) for step in (1, 2, 5)])
        trackio_courier.alert(make_alert())
        trackio_courier.alert(make_alert(severity="critical", state="resolved", step=20))
        trackio_courier.alert(make_alert(notify=False))
    rows = [(step, json.loads(text)) for step, text in trackio_rows("select step, metrics from metrics")]
    assert [(step, row) for step, row in rows if "rldk/a" in row] == [
        (step, {"rldk/a": step / 2, "train/global_step": step}) for step in (1, 2, 5)
    ]
    found = trackio_rows("select level, title, text, step from alerts order by id")
    assert [(level, title, step) for level, title, _, step in found] == [
        ("warn", "rldk warning: kl.high", 12),
        ("info", "rldk resolved: kl.high", 20),
    ]
    assert "Lower the learning rate" in found[0][2]
    (run,) = trackio_rows(RUNS)
    assert run == ("one", trackio_courier.address()["id"])
    assert "_Created" in json.loads(trackio_rows("select config from configs")[0][0]), "the run's own settings stay"


def test_tables_and_pictures(trackio_courier: TrackioTracker, trackio_rows: Read, trackio_folder: Path) -> None:
    trackio_courier.log_table("rldk/samples", ["text", "reward"], [["a", 1.5], ["b", None]], 7)
    trackio_courier.log_figure("rldk/curve", "<svg>curve</svg>", 7)
    rewards = Heatmap("Rewards", ("1 to 2", "0 to 1"), (1, 5), ((0.25, None), (0.75, 1.0)), edges=(0.0, 1.0, 2.0))
    trackio_courier.log_heatmap("rldk/charts/reward_distribution", rewards, 7)
    past: list[Any] = [("log", ({"rldk/length/mean": 40.0 + step}, step)) for step in (1, 2)]
    trackio_courier.restore(past)
    trackio_courier.log({"rldk/reward/mean": 0.5}, 8)
    trackio_courier.status("running", {}, 8)
    trackio_courier.status("finished", {}, 8)
    stored: dict[str, Any] = {}
    for step, text in trackio_rows("select step, metrics from metrics order by id"):
        stored |= {key: (step, value) for key, value in json.loads(text).items()}
    samples = [{"text": "a", "reward": 1.5}, {"text": "b", "reward": None}]
    assert stored["rldk/samples"] == (7, {"_type": "trackio.table", "_value": samples})
    step, histogram = stored["rldk/charts/reward_distribution_histogram"]
    assert (step, histogram["_type"], histogram["values"]) == (7, "trackio.histogram", [1.0, 0.0])
    pages = {"rldk/curve": 7} | {f"rldk/charts/{name}": 8 for name in ("overview", "report", "reward_distribution")}
    for key, at in pages.items():
        step, page = stored[key]
        assert (step, page["_type"]) == (at, "trackio.html")
        text = (trackio_folder / "media" / page["file_path"]).read_text()
        assert "<svg" in text
        assert not key.endswith("report") or "rldk/length/mean" in text, "also what an earlier courier has written"
        assert key.endswith("report") or "max-width:100%" in text, "it fits into its card"


def test_only_a_run_of_this_users_trackio_is_gone_on_with(
    trackio_courier: TrackioTracker, trackio_folder: Path
) -> None:
    backend, to = TrackioBackend(), trackio_courier.address()
    assert backend.approved(to, Namespace()) == (to, {})
    for other in ({"folder": "/elsewhere"}, {"url": "somebody/space"}, {"url": "https://elsewhere.example.org/"}):
        with pytest.raises(PermissionError, match="TRACKIO_.* sends it there"):
            backend.approved({**to, **other}, Namespace())
    with pytest.raises(ValueError, match="TRACKIO_DIR"):
        TrackioTracker.resume({**to, "folder": "/elsewhere"}, {})
    with pytest.raises(ValueError, match="before it had a Trackio run"):
        TrackioTracker.resume({}, {})


def test_a_server_of_ones_own(trackio_folder: Path, trackio_rows: Read, make_alert: Callable[..., Alert]) -> None:
    server, _, _, address = trackio.show(open_browser=False, block_thread=False)
    tracker = TrackioTracker()
    try:
        trackio.init(project="tests", server_url=address, embed=False, auto_log_gpu=False, auto_log_cpu=False)
        tracker.open(RunInfo())
        trackio.finish()
        to, secrets = tracker.address(), tracker.secrets()
        token = secrets["write_token"]
        assert token not in "".join(to.values())
        courier = TrackioTracker.resume(to, secrets)
        courier.open(RunInfo())
        assert courier.url() == to["url"]
        for _ in range(2):
            courier.log_rows([Row({"rldk/a": 1.5}, 3, 1000.0)])
            courier.alert(make_alert())
        courier.log_figure("rldk/curve", "<svg>curve</svg>", 4)
        with pytest.raises(RejectedError, match="write_token is required") as refused:
            TrackioTracker.resume(to, {"write_token": "wrong"}).log({"rldk/a": 1.5}, 3)
        assert token not in str(refused.value)
    finally:
        server.close()
    rows = [(step, json.loads(text)) for step, text in trackio_rows("select step, metrics from metrics order by id")]
    assert [(step, row.get("rldk/a")) for step, row in rows] == [(3, 1.5), (4, None)]
    assert "curve" in (trackio_folder / "media" / rows[1][1]["rldk/curve"]["file_path"]).read_text()
    assert trackio_rows("select level, step from alerts") == [("warn", 12)]
    gone = TrackioTracker.resume({**to, "url": "http://127.0.0.1:9/"}, secrets)
    with pytest.raises(UnavailableError, match="does not answer"):
        gone.log({"rldk/a": 1.5}, 3)


def test_an_alert_reaches_the_webhook_that_the_run_was_given(
    trackio_courier: TrackioTracker, monkeypatch: pytest.MonkeyPatch, make_alert: Callable[..., Alert]
) -> None:
    posted: list[Any] = []
    monkeypatch.setattr(trackio.alerts, "send_webhook", lambda *given: posted.append(given))
    secrets = {"webhook": "https://example.org/hook", "webhook_level": "warn"}
    tracker = TrackioTracker.resume(trackio_courier.address(), secrets)
    tracker.alert(make_alert())
    tracker.alert(make_alert(state="resolved"))
    ((url, level, title, _, project, run, step, _),) = posted
    assert (url, level.value, title) == (secrets["webhook"], "warn", "rldk warning: kl.high")
    assert (project, run, step) == ("tests", "one", 12)


@pytest.mark.slow
def test_a_training_is_one_run_with_its_last_row_and_its_alerts(tmp_path: Path, trackio_rows: Read) -> None:
    from tests.trackers.training import STEPS, LastRow, train

    rule = Rule(
        id="mine.step",
        keys=("rldk/train/loss",),
        condition="level",
        parameters={"threshold": -1.0, "patience": 1},
        severity="critical",
    )
    train(tmp_path, "trackio", LastRow(), rules=[rule])
    assert trackio.context_vars.current_run.get() is None
    assert len(trackio_rows(RUNS)) == 1
    rows = [(step, json.loads(text)) for step, text in trackio_rows("select step, metrics from metrics order by id")]
    assert [(step, row["train/global_step"]) for step, row in rows if "rldk/train/loss" in row] == [
        (step, step) for step in range(1, STEPS + 1)
    ]
    assert [step for step, row in rows if "rldk/last" in row] == [STEPS]
    assert any("train/loss" in row for _, row in rows), "the trainer's own are in the same run"
    assert not any(key.startswith("train/rldk/") for _, row in rows for key in row)
    assert trackio_rows("select level, title, step from alerts") == [("error", "rldk critical: mine.step", 2)]


def test_a_loop_without_a_trainer_has_it_too(trackio_folder: Path) -> None:
    from rldk_tracking.journal.settings import Settings
    from rldk_tracking.monitors.training import find_trackers

    find = find_trackers(None, Settings(slack=False))
    assert find() == []
    trackio.init(project="tests", name="one", embed=False)
    (tracker,) = find()
    assert isinstance(tracker, TrackioTracker)
    trackio.finish()
