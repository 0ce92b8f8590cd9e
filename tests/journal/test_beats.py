"""What is read of a training from outside: whole or not at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from rldk_tracking.journal import beats
from rldk_tracking.journal.beats import (
    GONE,
    RUNNING,
    STOPPED,
    beat_of,
    host_name,
    main_thread,
    process_state,
    read_beats,
    read_stacks,
)

RECORD = {
    "time": 1000.5,
    "step": 12,
    "phase": "reward",
    "events": 90,
    "limit_s": 120.0,
    "began": 900.0,
    "pid": 7,
    "created": 890.0,
    "host": "node1",
    "rank": 0,
    "ranks": 2,
    "stacks": "run.stacks.txt",
}


def test_a_beat_is_its_fields() -> None:
    beat = beat_of(json.dumps(RECORD) + "   \n")
    assert beat is not None
    assert {name: getattr(beat, name) for name in RECORD} == RECORD
    assert beat_of(json.dumps({**RECORD, "limit_s": None, "more": 1})).limit_s is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        json.dumps(RECORD)[:-5],
        "[1, 2]",
        "null",
        '"text"',
        json.dumps({**RECORD, "step": "12"}),
        json.dumps({**RECORD, "step": True}),
        json.dumps({**RECORD, "time": None}),
        json.dumps({**RECORD, "limit_s": "soon"}),
        json.dumps({**RECORD, "stacks": ["/etc/passwd"]}),
        json.dumps({name: value for name, value in RECORD.items() if name != "pid"}),
    ],
)
def test_what_is_no_beat_is_none(text: str) -> None:
    assert beat_of(text) is None


def test_the_beats_of_a_journal_and_of_one_rank(tmp_path: Path) -> None:
    for name, rank in (("run.beat-0@a", 0), ("run.beat-1@b", 1), ("run.beat-10@b", 10), ("run-2.beat-1@b", 1)):
        (tmp_path / f"{name}.json").write_text(json.dumps({**RECORD, "rank": rank}))
    (tmp_path / "run.beat-2@c.json").write_text("torn {")
    (tmp_path / "run.beat-3@c.json").mkdir()
    (tmp_path / "run.jsonl").write_text("{}")
    assert sorted(beat.rank for beat in read_beats(tmp_path, "run")) == [0, 1, 10]
    assert [beat.rank for beat in read_beats(tmp_path, "run", 1)] == [1]
    assert [beat.rank for beat in read_beats(tmp_path, "run-2")] == [1]
    assert read_beats(tmp_path / "gone", "run") == []


def test_a_process_of_this_host_in_words() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        created = psutil.Process(child.pid).create_time()
        assert process_state(child.pid, created, host_name()) == RUNNING
        assert process_state(child.pid, created - 60, host_name()) == GONE, "another process has its number"
        assert "another host" in process_state(child.pid, created, "elsewhere")
        child.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + 5
        while process_state(child.pid, created, host_name()) != STOPPED and time.monotonic() < deadline:
            time.sleep(0.02)
        assert process_state(child.pid, created, host_name()) == STOPPED
        child.send_signal(signal.SIGKILL)
        while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.02)
        assert process_state(child.pid, created, host_name()) == GONE, "it has ended and nobody waited for it"
    finally:
        child.kill()
        child.wait()
    assert process_state(child.pid, created, host_name()) == GONE


def test_a_process_that_may_not_be_asked_is_not_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int) -> None:
        raise psutil.AccessDenied(pid)

    monkeypatch.setattr(beats.psutil, "Process", refuse)
    assert process_state(1, 0.0, host_name()) == beats.UNKNOWN


def test_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert beats.can_write(tmp_path)
    assert not beats.can_write(tmp_path / "gone")
    real = os.statvfs(tmp_path)
    full = os.statvfs_result([0 if field == "f_bavail" else value for field, value in zip(FIELDS, real, strict=False)])
    monkeypatch.setattr(beats.os, "statvfs", lambda path: full)
    assert not beats.can_write(tmp_path)


FIELDS = ("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree", "f_favail", "f_flag", "f_max")

DUMP = """=== event 8 of process 7: phase step of step 3, silent for 9 s at 2026-01-01 10:00:00

Main thread (innermost frame first):
  File "a.py", line 1 in old

=== event 9 of process 7: phase reward of step 3, silent for 9 s at 2026-01-01 10:00:00

Main thread (innermost frame first):
  File "/judge.py", line 7 in ask
  File "/trl/grpo_trainer.py", line 99 in _calculate_rewards
  File "/transformers/trainer.py", line 12 in train

Thread tqdm (innermost frame first):
  File "/tqdm.py", line 3 in wait

"""


def test_the_stacks_of_this_silence_only(tmp_path: Path) -> None:
    path = tmp_path / "run.stacks.txt"
    beat = beat_of(json.dumps({**RECORD, "events": 9, "stacks": f"../{tmp_path.name}/run.stacks.txt"}))
    assert beat is not None
    assert read_stacks(tmp_path, beat) is None
    path.write_text(DUMP)
    found = read_stacks(tmp_path, beat)
    assert found is not None and "ask" in found and "old" not in found
    assert read_stacks(tmp_path, replace(beat, events=10)) is None
    assert read_stacks(tmp_path, replace(beat, pid=70)) is None, "of an earlier training with as many events"
    path.write_text(DUMP.replace("ask", "before") + DUMP)
    assert read_stacks(tmp_path, beat) == found, "the last one"
    path.write_text("x" * beats.STACKS_BYTES + "\n" + DUMP)
    assert read_stacks(tmp_path, beat) == found
    path.write_text(DUMP + "x" * beats.STACKS_BYTES)
    assert read_stacks(tmp_path, beat) is None, "a file of any size is not read whole"


def test_the_stacks_lie_in_the_folder_whatever_the_beat_says(tmp_path: Path) -> None:
    (tmp_path / "elsewhere.txt").write_text(DUMP)
    (tmp_path / "run").mkdir()
    beat = beat_of(json.dumps({**RECORD, "events": 9, "stacks": str(tmp_path / "elsewhere.txt")}))
    assert beat is not None and read_stacks(tmp_path / "run", beat) is None
    assert read_stacks(tmp_path, beat) is not None


def test_the_innermost_frames_as_many_as_fit() -> None:
    found = DUMP.split("=== event 9")[1]
    first, second = 'File "/judge.py", line 7 in ask', 'File "/trl/grpo_trainer.py", line 99 in _calculate_rewards'
    third = 'File "/transformers/trainer.py", line 12 in train'
    assert main_thread(found, 1000) == f"{first}\n{second}\n{third}"
    assert main_thread(found, 100) == f"{first}\n{second}"
    assert main_thread(found, 10) == "" and main_thread("no dump", 100) == ""
