"""Whole lines of strict JSON: whatever breaks off, for the owner alone, one writer at a time."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rldk_tracking.trackers.lines import LineFile, dumps


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
    script = "import sys, time; from pathlib import Path; from rldk_tracking.trackers.lines import LineFile\n"
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


def test_strict_json() -> None:

    line = dumps({"a": math.nan, "b": [math.inf, np.float32(1.5)], "c": {"d": -math.inf}, "e": object})
    data = json.loads(line, parse_constant=lambda word: pytest.fail(word))
    assert data["a"] == "nan" and data["b"] == ["inf", 1.5] and data["c"] == {"d": "-inf"}
