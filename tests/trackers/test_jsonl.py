from __future__ import annotations

import errno
import json
import math
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rldk_tracking.health.alert import Alert
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.jsonl import JsonlStore, JsonlTracker, LineFile
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


def test_lines_for_the_owner_alone(tmp_path: Path) -> None:
    file = LineFile(tmp_path / "a" / "b.jsonl")
    file.append(b"one\n")
    file.append(b"two\nthree\n")
    file.close()
    file.append(b"four\n")
    assert file.path.read_bytes() == b"one\ntwo\nthree\nfour\n"
    assert stat.S_IMODE(os.stat(file.path).st_mode) == 0o600
    file.close()


def test_a_torn_line_is_ended_first(tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    path.write_bytes(b"whole\nha")
    file = LineFile(path)
    file.append(b"next\n")
    file.close()
    assert path.read_bytes() == b"whole\nha\nnext\n"


def test_what_a_full_disk_took_half_of_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = LineFile(tmp_path / "b.jsonl")
    file.append(b"whole\n")
    real = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) > 4:
            return real(descriptor, data[:4])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        file.append(b"seven77\n")
    monkeypatch.setattr(os, "write", real)
    assert file.path.read_bytes() == b"whole\n"
    file.append(b"later\n")
    assert file.path.read_bytes() == b"whole\nlater\n"
    file.close()


def test_another_writers_line_is_not_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = LineFile(tmp_path / "b.jsonl")
    file.append(b"whole\n")
    real = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) > 4:
            return real(descriptor, data[:4])
        with file.path.open("ab") as other:
            other.write(b"\nof the courier\n")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        file.append(b"seven77\n")
    monkeypatch.setattr(os, "write", real)
    file.append(b"later\n")
    assert file.path.read_bytes() == b"whole\nseve\nof the courier\n\nlater\n"
    file.close()


def test_a_file_that_was_deleted(tmp_path: Path) -> None:
    file = LineFile(tmp_path / "b.jsonl")
    assert not file.is_gone
    file.append(b"one\n")
    assert not file.is_gone
    file.path.unlink()
    assert file.is_gone
    file.close()


def test_one_at_a_time_and_free_after_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    script = "import sys, time; from pathlib import Path; from rldk_tracking.trackers.jsonl import LineFile\n"
    script += "print(LineFile(Path(sys.argv[1])).try_lock(), flush=True); lock = LineFile(Path(sys.argv[1]))\n"
    script += "lock.try_lock(); print('held', flush=True); time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    assert process.stdout.readline() == "held\n"
    lock = LineFile(path)
    assert not lock.try_lock()
    process.kill()
    process.communicate()
    assert lock.try_lock() and lock.try_lock()
    other = LineFile(path)
    assert not other.try_lock()
    lock.close()
    assert other.try_lock()
    other.close()


def test_where_no_file_can_be_made_nobody_is_kept_out(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("in the way")
    assert LineFile(tmp_path / "a" / "a.lock").try_lock()


def test_jsonl_begins_a_new_file(tmp_path: Path) -> None:
    store = JsonlStore(tmp_path)
    store.prepare()
    store.path("healthy").write_text("old\n")
    trackers = store.trackers("healthy")
    assert trackers is not None
    assert not store.path("healthy").exists() or store.path("healthy").read_text() == ""
    store.finished("healthy")
    assert store.how_to_open()[1].split() == ["healthy", str(store.path("healthy"))]
