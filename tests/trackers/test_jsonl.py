from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from rldk_tracking.charts.past import load
from rldk_tracking.health.alert import Alert
from rldk_tracking.trackers.base import RunInfo
from rldk_tracking.trackers.delivery import Delivery
from rldk_tracking.trackers.journal import read
from rldk_tracking.trackers.jsonl import JsonlTracker


def test_every_line_is_one_object(tmp_path: Path, make_alert: Callable[..., Alert]) -> None:
    tracker = JsonlTracker(tmp_path / "run.jsonl")
    delivery = Delivery(tracker)
    delivery.open(RunInfo())
    delivery.put("status", "running", {}, 0)
    delivery.put("log", {"rldk/a": 1.5}, 1)
    delivery.put("alert", make_alert(value=math.inf))
    delivery.put("log_table", "rldk/samples", ["text"], [["a\nb"]], 1)
    delivery.put("log_figure", "rldk/curve", "<svg/>", 1)
    # Nothing is kept back until the end: a process that is killed has written all up to its last step.
    lines = (tmp_path / "run.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["type"] for record in records] == ["status", "metrics", "alert", "table", "figure"]
    assert all(isinstance(record["time"], float) for record in records)
    assert (records[1]["step"], records[1]["metrics"]) == (1, {"rldk/a": 1.5})
    assert (records[2]["rule"], records[2]["step"], records[2]["value"]) == ("kl.high", 12, "inf")
    assert records[3]["rows"] == [["a\nb"]]
    delivery.close()
    assert delivery.errors == 0


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.touch(mode=0o644)
    tracker = JsonlTracker(path)
    tracker.log({"rldk/a": 1.0}, 1)
    tracker.close()
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_a_second_run_appends(tmp_path: Path) -> None:
    for step in (1, 2):
        tracker = JsonlTracker(tmp_path / "folder")
        tracker.log({"rldk/a": 1.0}, step)
        tracker.close()
    tracker.log({"rldk/a": 1.0}, 3)
    tracker.close()
    assert [record["step"] for record in read(tmp_path / "folder" / "run.jsonl")] == [1, 2, 3]


def test_what_was_known_of_a_step_whose_row_never_came(tmp_path: Path) -> None:
    delivery = Delivery(JsonlTracker(tmp_path))
    for step in (1, 2):
        delivery.hold({"rldk/train/loss": step / 2}, step)
        if step == 1:
            delivery.put("log", {"rldk/train/loss": 0.5, "rldk/health/overall": 1.0}, 1)
        delivery.let_go()
    found = [(record["step"], record["metrics"]) for record in read(tmp_path / "run.jsonl")]
    assert found == [(1, {"rldk/train/loss": 0.5, "rldk/health/overall": 1.0}), (2, {"rldk/train/loss": 1.0})]
    assert JsonlTracker(tmp_path).last_step() == 1, "a training that goes on may make the second step anew"
    assert [step for step, _ in load(tmp_path).rows] == [1, 2], "and a report shows what is there"
    delivery.put("log", {"rldk/train/loss": 1.0, "rldk/health/overall": 1.0}, 2)
    assert not any(record.get("draft") for record in read(tmp_path / "run.jsonl"))


def test_without_a_path_beside_the_trainers_output(tmp_path: Path) -> None:
    tracker = JsonlTracker()
    assert not tracker.joined
    with pytest.raises(RuntimeError, match="opened"):
        tracker.log({"rldk/a": 1.0}, 1)
    tracker.open(RunInfo(output_dir=str(tmp_path / "out")))
    tracker.log({"rldk/a": 1.0}, 1)
    tracker.close()
    assert tracker.path == tmp_path / "out" / "rldk" / "run.jsonl"
    assert len(list(read(tracker.path))) == 1
