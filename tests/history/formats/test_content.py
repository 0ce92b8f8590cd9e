"""Bytes within limits, packed or not."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from rldk_tracking.history.files import read_log
from rldk_tracking.history.formats import content
from rldk_tracking.history.run_history import UnreadableSourceError

ROW = b'{"reward": 1.0}\n'


def test_what_unpacks_to_more_than_there_should_be_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(ROW * 100))
    assert len(read_log(path).entries) == 100
    monkeypatch.setattr(content, "LARGEST_JSON_BYTES", 10 * len(ROW))
    with pytest.raises(UnreadableSourceError, match=r"bomb.gz:11: unpacked, it is larger than"):
        read_log(path)
    path.write_bytes(gzip.compress(b"[" + b" " * 1000 + b"{}]"))
    with pytest.raises(UnreadableSourceError, match=r"bomb.gz: larger than"):
        read_log(path)


@pytest.mark.parametrize("damage", ["cut", "turned"])
def test_a_damaged_gzip_is_said(damage: str, tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(ROW * 100))
    if damage == "cut":
        del packed[-12:]
    else:
        packed[-20:-8] = bytes(12)
    (tmp_path / "log.jsonl").write_bytes(packed)
    with pytest.raises(UnreadableSourceError, match=r"log.jsonl: damaged gzip"):
        read_log(tmp_path / "log.jsonl")
