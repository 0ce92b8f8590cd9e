"""What Trackio's own database holds: one run, every row at the trainer's step, the alerts."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rldk_tracking.health.alert import Alert
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.base import RejectedError
from rldk_tracking.trackers.trackio import TrackioTracker

trackio = pytest.importorskip("trackio", reason="needs trackio")


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], list[Any]]]:
    """`rows(sql)` of the one project that a test writes to."""
    import trackio.utils
    from trackio import sqlite_storage

    folder = tmp_path / "trackio"
    for module in (trackio.utils, sqlite_storage):
        monkeypatch.setattr(module, "TRACKIO_DIR", folder, raising=False)

    def rows(sql: str) -> list[Any]:
        (path,) = folder.glob("*.db")
        with sqlite3.connect(path) as connection:
            return connection.execute(sql).fetchall()

    yield rows
    trackio.context_vars.current_run.set(None)


def test_rows_and_alerts(database: Callable[[str], list[Any]], make_alert: Callable[..., Alert]) -> None:
    tracker = TrackioTracker()
    tracker.open(RunInfo())
    assert not tracker.joined
    with pytest.raises(RejectedError, match="no Trackio run"):
        tracker.log({"rldk/a": 1.0}, 1)
    trackio.init(project="tests", name="one", embed=False)
    assert tracker.joined
    for step in (1, 2, 5):
        trackio.log({"profiling": 0.1})
        tracker.log({"rldk/a": step / 2}, step)
    tracker.alert(make_alert())
    tracker.alert(make_alert(severity="critical", state="resolved"))
    tracker.alert(make_alert(notify=False))
    trackio.finish()
    rows = [(step, json.loads(text)) for step, text in database("select step, metrics from metrics")]
    ours = {step: row for step, row in rows if "rldk/a" in row}
    assert ours == {step: {"rldk/a": step / 2, "train/global_step": step} for step in (1, 2, 5)}
    found = database("select level, title, text, step from alerts order by id")
    assert [(level, title, step) for level, title, _, step in found] == [
        ("warn", "rldk warning: kl.high", 5),
        ("info", "rldk resolved: kl.high", 5),
    ]
    assert "Lower the learning rate" in found[0][2]


def test_a_training_is_one_run_with_its_last_row(tmp_path: Path, database: Callable[[str], list[Any]]) -> None:
    from tests.trackers.training import STEPS, LastRow, train

    train(tmp_path, "trackio", LastRow())
    assert trackio.context_vars.current_run.get() is None
    assert len(database("select distinct run_name from metrics")) == 1
    rows = [(step, json.loads(text)) for step, text in database("select step, metrics from metrics order by id")]
    assert [(step, row["train/global_step"]) for step, row in rows if "rldk/train/loss" in row] == [
        (step, step) for step in range(1, STEPS + 1)
    ]
    assert [step for step, row in rows if "rldk/last" in row] == [STEPS]
    assert any("train/loss" in row for _, row in rows), "the trainer's own are in the same run"


def test_a_loop_without_a_trainer_has_it_too(database: Callable[[str], list[Any]]) -> None:
    from rldk_tracking.journal.settings import Settings
    from rldk_tracking.monitors.training import find_trackers

    find = find_trackers(None, Settings(slack=False))
    assert find() == []
    trackio.init(project="tests", name="one", embed=False)
    (tracker,) = find()
    assert isinstance(tracker, TrackioTracker)
    trackio.finish()
