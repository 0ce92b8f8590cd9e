from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from rldk_tracking.health.alert import Alert
from rldk_tracking.history.past import load
from rldk_tracking.rollout import RunInfo
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
    delivery, path = Delivery(JsonlTracker(tmp_path)), tmp_path / "run.jsonl"
    for step in (1, 2):
        delivery.hold({"rldk/train/loss": step / 2}, step)
        if step == 1:
            delivery.put("log", {"rldk/train/loss": 0.5, "rldk/health/overall": 1.0}, 1)
            delivery.let_go()
    assert len(path.read_text().splitlines()) == 1, "a row is written once"
    assert stat.S_IMODE(os.stat(path.with_suffix(".draft")).st_mode) == 0o600
    found = [(record["step"], record["metrics"]) for record in read(path)]
    assert found == [(1, {"rldk/train/loss": 0.5, "rldk/health/overall": 1.0}), (2, {"rldk/train/loss": 1.0})]
    assert JsonlTracker(tmp_path).last_step() == 1, "a training that goes on may make the second step anew"
    assert [step for step, _ in load(tmp_path).rows] == [1, 2], "and a report shows what is there"
    delivery.put("log", {"rldk/train/loss": 1.0, "rldk/health/overall": 1.0}, 2)
    assert not any(record.get("draft") for record in read(path))
    delivery.let_go()
    delivery.close()
    assert [file.name for file in tmp_path.iterdir()] == ["run.jsonl"]


@pytest.mark.parametrize("made_anew", [True, False])
def test_a_training_that_goes_on_takes_over_what_the_killed_one_left(tmp_path: Path, made_anew: bool) -> None:
    killed, path = JsonlTracker(tmp_path), tmp_path / "run.jsonl"
    killed.log({"a": 1.0}, 1)
    for step in (1, 2):  # its row is in the file, but it did not come to let go of the first
        killed.hold({"a": 0.5}, step)
    after = JsonlTracker(tmp_path)
    after.hold({"a": 2.0}, 3)
    if made_anew:
        after.log({"a": 4.0}, 2)
    after.log({"a": 4.0}, 3)
    after.close()
    assert not path.with_suffix(".draft").exists()
    found = sorted((record["step"], record["metrics"]["a"], record.get("draft", False)) for record in read(path))
    assert found == [(1, 1.0, False), (2, 4.0, False) if made_anew else (2, 0.5, True), (3, 4.0, False)]


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
