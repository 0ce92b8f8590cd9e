"""What the courier's process does with the messages of the training. See also tests/test_courier.py."""

from __future__ import annotations

import io
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from rldk_tracking.journal import service as module
from rldk_tracking.journal.service import _LARGEST_BYTES, courier_log, serve
from tests.journal.conftest import eventually, started


def message(journal: Any, **more: Any) -> bytes:
    me = {"pid": os.getpid(), "created": psutil.Process().create_time(), "destinations": [], "rules": {}}
    return json.dumps({"journal": str(journal.path), **me, **more}).encode() + b"\n"


def serving(monkeypatch: pytest.MonkeyPatch, idle_s: float) -> tuple[threading.Thread, int]:
    """It runs, and where it is told something."""
    monkeypatch.setattr(module, "IDLE_S", idle_s)
    reader, writer = os.pipe()
    source = open(reader, "rb", buffering=0)  # noqa: SIM115 - closed by the end of the test's process
    thread = threading.Thread(target=serve, args=(source,), daemon=True)
    thread.start()
    return thread, writer


@pytest.mark.slow
def test_with_nothing_to_follow_it_ends_although_the_training_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    thread, writer = serving(monkeypatch, 1.5)
    journal = started(tmp_path)
    os.write(writer, message(journal))
    time.sleep(3)
    assert thread.is_alive(), "the training goes on"
    journal.end("finished", 0)
    thread.join(10)
    assert not thread.is_alive()
    os.close(writer)


def test_it_leaves_what_it_is_told_to_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    thread, writer = serving(monkeypatch, 0.1)
    journal = started(tmp_path)
    os.write(writer, message(journal))
    eventually(lambda: (tmp_path / "run.courier.lock").exists(), 10)
    os.write(writer, json.dumps({"journal": str(journal.path), "leave": True}).encode() + b"\n")
    thread.join(10)
    assert not thread.is_alive()
    os.close(writer)


def test_lines_that_are_no_messages_are_passed_over() -> None:
    serve(io.BytesIO(b"nonsense\n[]\n{}\n"))


def test_a_bounded_file_for_the_owner_alone(tmp_path: Path) -> None:
    log = courier_log(tmp_path / "run-2.jsonl")
    assert courier_log(tmp_path / "run-2.jsonl") is log
    assert list(tmp_path.iterdir()) == [], "no file before there is something to say"
    for number in range(8000):
        log.info("line %d %s", number, "x" * 100)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["run-2.courier.log", "run-2.courier.log.1"]
    for name in files:
        assert (tmp_path / name).stat().st_size <= _LARGEST_BYTES
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    assert "line 7999" in (tmp_path / "run-2.courier.log").read_text()
    assert courier_log(tmp_path / "run.jsonl") is not log
