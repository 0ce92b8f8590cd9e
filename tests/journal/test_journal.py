"""The file of a run: what is in it after kills, full disks, deleted folders, forks and resumes."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rldk_tracking.journal.journal import Journal, journals_in
from rldk_tracking.journal.reader import FileLines, JournalLines, read_all
from rldk_tracking.trackers.lines import LineFile
from rldk_tracking.trackers.memory import InMemoryTracker
from tests.clock import own_time
from tests.journal.conftest import INFO, ROOT, an_alert, row, started


class Somewhere(InMemoryTracker):
    """A tracker with an address."""

    def __init__(self, place: str = "here") -> None:
        super().__init__()
        self.place = place

    def address(self) -> dict[str, str]:
        return {"place": self.place}


def records(path: Path) -> list[dict[str, Any]]:
    return [entry.record for entry in read_all(FileLines(path)) if entry.record]


def rows(path: Path) -> list[int]:
    return [record["step"] for record in records(path) if record["type"] == "metrics"]


def lines_of(journal: Journal) -> JournalLines:
    """As the process that writes it reads it."""
    return JournalLines(journal.path, lambda: journal.memory)


def test_what_a_run_writes(tmp_path: Path) -> None:
    journal = started(tmp_path / "a", Somewhere())
    journal.row(1, row(1), [an_alert(1)])
    journal.call("log_table", "k", ["a"], [[1]], 1)
    journal.end("crashed", 1, "KeyError: 'x'")
    journal.close()
    begin, destination, first, table, end = records(journal.path)
    assert begin["run"] == {"name": "a try", "trainer": "GRPOTrainer", "config": {"beta": 0.02}, "output_dir": None}
    assert (begin["pid"], begin["ranks"], begin["resumed_at"], begin["version"]) == (os.getpid(), 1, None, 1)
    assert (destination["id"], destination["to"], destination["in_process"]) == ("memory", {"place": "here"}, True)
    assert (first["metrics"], first["alerts"][0]["rule"]) == (row(1), "kl.high")
    assert (table["type"], end["status"], end["exception"]) == ("table", "crashed", "KeyError: 'x'")
    assert stat.S_IMODE(os.stat(journal.path).st_mode) == 0o600
    assert journal.size == journal.path.stat().st_size
    assert journal.lost == 0


def test_two_trainings_in_one_folder(tmp_path: Path) -> None:
    first, second = started(tmp_path), started(tmp_path)
    for step in (1, 2):
        first.row(step, {"a": 1.0})
        second.row(step, {"a": 2.0})
    assert [path.name for path in journals_in(tmp_path)] == ["run.jsonl", "run-2.jsonl"]
    assert {record["metrics"]["a"] for record in records(second.path) if record["type"] == "metrics"} == {2.0}
    assert rows(first.path) == rows(second.path) == [1, 2]
    third = started(tmp_path, resumed_at=1)
    assert third.path.name == "run-3.jsonl", "what another writes is not appended to"
    for journal in (first, second, third):
        journal.close()


def test_the_tenth_comes_after_the_ninth(tmp_path: Path) -> None:
    for number in range(1, 12):
        (tmp_path / ("run.jsonl" if number == 1 else f"run-{number}.jsonl")).touch()
    (tmp_path / "run-of-mine.jsonl").touch()
    assert journals_in(tmp_path)[-1].name == "run-11.jsonl"
    assert started(tmp_path).path.name == "run-12.jsonl"


def test_a_resumed_training_appends(tmp_path: Path) -> None:
    first = started(tmp_path, Somewhere())
    for step in range(1, 6):
        first.row(step, row(step), [an_alert(step)] if step == 4 else [])
    first._file.append(b'{"type": "metr')  # the kill
    first.close()
    again = started(tmp_path, Somewhere(), resumed_at=3)
    assert again.path == first.path
    assert not again.earlier.is_new(an_alert(4)), "people know"
    assert again.earlier.is_new(an_alert(5))
    for step in (4, 5, 6):
        again.row(step, {"a": -1.0}, [an_alert(5, "b.c")] if step == 5 else [])
    again.close()
    assert rows(first.path) == [1, 2, 3, 4, 5, 6]
    kinds = [record["type"] for record in records(first.path)]
    assert kinds == ["begin", "destination", *["metrics"] * 5, "begin", "alert", "metrics"]
    assert records(first.path)[-2]["step"] == 5, "an alert of a row that is there already is a line of its own"


def test_a_resumed_training_with_another_destination(tmp_path: Path) -> None:
    first = started(tmp_path, Somewhere("here"))
    first.row(4, row(4), [an_alert(4)])
    first.close()
    again = started(tmp_path, Somewhere("there"), resumed_at=3)
    assert again.path.name == "run-2.jsonl"
    assert not again.earlier.is_new(an_alert(4))
    again.row(4, row(4))
    again.close()
    assert rows(again.path) == [4], "a new run gets every row"


def test_what_is_each_processs_own_makes_no_other_destination(tmp_path: Path) -> None:
    class Logging(Somewhere):
        def address(self) -> dict[str, str]:
            return {"id": "run", "log": self.place}

    for place, resumed_at in (("/a/1.wandb", None), ("/a/2.wandb", 0)):
        journal = started(tmp_path, Logging(place), resumed_at=resumed_at)
        journal.close()
        assert journal.path.name == "run.jsonl"
    assert [r["to"]["log"] for r in records(journal.path) if r["type"] == "destination"] == ["/a/1.wandb", "/a/2.wandb"]


def test_the_newest_of_several(tmp_path: Path) -> None:
    for step in (1, 2):
        journal = started(tmp_path, Somewhere())
        journal.row(step, row(step))
        journal.close()
    assert started(tmp_path, Somewhere(), resumed_at=0).path.name == "run-2.jsonl"


@pytest.mark.parametrize("freed", [True, False])
def test_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, freed: bool
) -> None:
    journal = started(tmp_path)
    real = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) > 10:
            return real(descriptor, data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    journal.row(1, row(1))
    monkeypatch.setattr(os, "write", full)
    for step in (2, 3, 4):
        journal.row(step, row(step))
    assert journal.lost == 3
    assert journal.memory is not None
    size = journal.path.stat().st_size
    positions = [(entry.start, entry.record.get("step")) for entry in read_all(lines_of(journal))]
    assert [step for _, step in positions] == [None, 1, 2, 3, 4], "what is in the file, and what is kept behind it"
    if freed:
        monkeypatch.setattr(os, "write", real)
    journal.row(5, row(5))
    journal.close()
    assert [entry.problem for entry in read_all(FileLines(journal.path)) if entry.problem] == []
    first, *last = (record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING)
    assert "No space left on device" in first
    if freed:
        assert (rows(journal.path), journal.lost, last) == ([1, 2, 3, 4, 5], 0, [])
        found = [(entry.start, entry.record.get("step")) for entry in read_all(FileLines(journal.path))]
        assert found[:-1] == positions, "a position means the same in the file and in memory"
    else:
        assert (rows(journal.path), journal.lost, journal.path.stat().st_size) == ([1], 4, size)
        assert last == [f"4 records could not be written to {journal.path}."]


def test_a_disk_that_is_freed_is_written_to_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rldk_tracking.journal.journal.KEPT_LINES", 3)
    journal = started(tmp_path)
    monkeypatch.setattr(LineFile, "append", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    for step in range(1, 6):
        journal.row(step, row(step))
    assert journal.lost == 5
    monkeypatch.undo()
    journal._reopen_at = 0.0
    journal.row(6, row(6))
    journal.row(7, row(7))
    assert rows(journal.path) == [4, 5, 6], "not tried at each step, and no more kept than memory may hold"
    journal.close()
    assert (rows(journal.path), journal.lost) == ([4, 5, 6, 7], 3)


def test_a_folder_that_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rldk_tracking.journal.journal._REOPEN_S", 0.3)
    journal = started(tmp_path / "a", Somewhere())
    journal.row(1, row(1))
    shutil.rmtree(tmp_path / "a")
    journal.row(2, row(2))
    assert [record["type"] for record in records(journal.path)] == ["begin", "destination", "metrics"]
    assert (journal.lost, journal.deleted) == (0, 3), "begin, destination and the first row were in it"
    shutil.rmtree(tmp_path / "a")
    (tmp_path / "a").write_text("in the way")
    journal._reopen_at = 0.0
    journal.row(3, row(3))
    journal.row(4, row(4))
    assert journal.lost == 2
    (tmp_path / "a").unlink()
    journal.row(5, row(5))
    assert journal.lost == 3, "not tried at each step"
    time.sleep(0.35)
    journal.row(6, row(6))
    assert (rows(journal.path), journal.lost) == ([6], 3)
    journal.close()


def test_a_full_disk_whose_folder_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept in memory goes into a file that is there, when the disk takes it again."""
    journal = started(tmp_path / "a", Somewhere())
    with monkeypatch.context() as patch:
        patch.setattr(LineFile, "append", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        journal.row(1, row(1))
    shutil.rmtree(tmp_path / "a")
    journal.close()
    assert (rows(journal.path), journal.lost) == ([1], 0)


def test_where_no_file_can_be_made(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a").write_text("in the way")
    journal = started(tmp_path / "a")
    journal.row(1, row(1))
    journal.end("finished", 1)
    assert journal.memory is not None
    assert [entry.record["type"] for entry in read_all(lines_of(journal))] == ["begin", "metrics", "end"]
    journal.close()
    assert journal.lost == 3
    assert len([record for record in caplog.records if "cannot be written" in record.getMessage()]) == 1


def test_a_forked_child_writes_nothing(tmp_path: Path) -> None:
    journal = started(tmp_path)
    child = os.fork()
    if child == 0:
        journal.row(1, {"a": 1.0})
        journal.end("crashed", 1)
        journal.close()
        os._exit(0)
    os.waitpid(child, 0)
    journal.row(2, {"a": 1.0})
    journal.close()
    assert [record["type"] for record in records(journal.path)] == ["begin", "metrics"]


def test_a_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    """A sandbox that a reward function has forked may outlive the training."""
    script = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from tests.journal.conftest import started\n"
        "journal = started(Path(sys.argv[1]))\n"
        "if os.fork() == 0: time.sleep(20); os._exit(0)\n"
        "print('up', flush=True); time.sleep(20)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    time.sleep(0.2)
    process.kill()
    process.wait()
    try:
        assert started(tmp_path, resumed_at=0).path.name == "run.jsonl"
    finally:
        os.killpg(process.pid, 9)
        process.stdout.close()


def test_what_cannot_be_written_as_json_is_counted(tmp_path: Path) -> None:
    journal = started(tmp_path)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    journal.call("log_table", "k", ["a"], [[deep]], 1)
    journal.row(1, row(1))
    assert (journal.lost, rows(journal.path)) == (1, [1])
    journal.close()


def test_an_append_is_quick(tmp_path: Path) -> None:
    journal = started(tmp_path)
    values = {f"rldk/group/key_{number}": number / 7 for number in range(110)}
    longest, start = 0.0, time.process_time()
    for step in range(500):
        before = own_time()
        journal.row(step, values)
        longest = max(longest, own_time() - before)
    assert (time.process_time() - start) / 500 < 0.001
    assert longest < 0.2
    journal.close()


def test_a_begin_without_a_file_name(tmp_path: Path) -> None:
    assert json.loads(json.dumps(INFO.config)) == {"beta": 0.02}
    assert LineFile(tmp_path / "x").is_gone is False
