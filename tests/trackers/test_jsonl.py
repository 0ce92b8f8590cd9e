from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from rldk_tracking.health.alert import Alert
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.base import Row
from rldk_tracking.trackers.jsonl import JsonlStore, JsonlTracker
from tests.trackers.conftest import read


def test_every_line_is_one_object(tmp_path: Path, make_alert: Callable[..., Alert]) -> None:
    tracker = JsonlTracker(tmp_path / "run.jsonl")
    tracker.open(RunInfo())
    tracker.status("running", {}, 0)
    tracker.log({"rldk/a": 1.5}, 1)
    tracker.alert(make_alert(value=math.inf))
    tracker.log_table("rldk/samples", ["text"], [["a\nb"]], 1)
    tracker.log_figure("rldk/curve", "<svg/>", 1)
    # Nothing is kept back until the end: a process that is killed has written all up to its last step.
    lines = (tmp_path / "run.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["type"] for record in records] == ["status", "metrics", "alert", "table", "figure"]
    assert all(isinstance(record["time"], float) for record in records)
    assert (records[1]["step"], records[1]["metrics"]) == (1, {"rldk/a": 1.5})
    assert (records[2]["rule"], records[2]["step"], records[2]["value"]) == ("kl.high", 12, "inf")
    assert records[3]["rows"] == [["a\nb"]]
    tracker.close()


def test_numbers_of_the_trainers_own_names_are_in_the_file_too(tmp_path: Path) -> None:
    tracker = JsonlTracker(tmp_path / "run.jsonl")
    tracker.log_rows([Row.of({"rldk/a": 1.0, "tools/calls": 2.0}, 3, 0.0)])
    tracker.close()
    assert json.loads((tmp_path / "run.jsonl").read_text())["metrics"] == {"rldk/a": 1.0, "tools/calls": 2.0}


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


def test_jsonl_begins_a_new_file(tmp_path: Path) -> None:
    store = JsonlStore(tmp_path)
    store.prepare()
    store.path("healthy").write_text("old\n")
    trackers = store.trackers("healthy")
    assert trackers is not None
    assert not store.path("healthy").exists() or store.path("healthy").read_text() == ""
    store.finished("healthy")
    assert store.how_to_open()[1].split() == ["healthy", str(store.path("healthy"))]
