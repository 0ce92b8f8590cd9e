"""What is read of a training from outside: whole or not at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
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
    is_alive,
    process_state,
    read_beats,
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
        assert is_alive(child.pid, created)
        child.send_signal(signal.SIGKILL)
        while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.02)
        assert process_state(child.pid, created, host_name()) == GONE, "it has ended and nobody waited for it"
        assert not is_alive(child.pid, created)
    finally:
        child.kill()
        child.wait()
    assert process_state(child.pid, created, host_name()) == GONE


@pytest.mark.parametrize("pid", [-1, 2**31, 2**70])
def test_what_is_no_number_of_a_process_is_gone(pid: int) -> None:
    assert process_state(pid, 0.0) == GONE


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
