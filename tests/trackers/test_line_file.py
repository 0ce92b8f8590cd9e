from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from rldk_tracking.trackers.line_file import LineFile


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
