"""Folders that somebody has filled with what is no file: nothing waits, nothing is read without end."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from rldk_tracking.checkpoint import files
from rldk_tracking.checkpoint.files import DamagedFileError, open_regular, read_json
from rldk_tracking.checkpoint.scan import scan
from rldk_tracking.checkpoint.score import verdict

posix = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")


@posix
@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", ["fifo", "device", "link to a device", "folder"])
def test_only_regular_files_are_opened(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    if kind == "fifo":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "device":
        file = Path("/dev/zero")
    else:
        file.symlink_to("/dev/zero")
    with pytest.raises(DamagedFileError, match=f"{file.name} is no regular file"):
        open_regular(file)
    with pytest.raises(DamagedFileError, match="no regular file"):
        read_json(file)


def test_a_link_to_a_regular_file_is_one(tmp_path: Path) -> None:
    """As in the cache of the Hugging Face Hub."""
    (tmp_path / "blob").write_text('{"a": 1}')
    (tmp_path / "config.json").symlink_to(tmp_path / "blob")
    assert read_json(tmp_path / "config.json") == {"a": 1}
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "nowhere")


@pytest.mark.parametrize("content", ["", "{", "[1]", "7", "[" * 100_000, '{"a": ' + "9" * 5000 + "}", "\x00\xff"])
def test_what_is_no_json_object(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(DamagedFileError, match="config.json"):
        read_json(tmp_path / "config.json")


def test_json_has_a_largest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"a": "b" * 2000}))
    assert read_json(tmp_path / "config.json")
    monkeypatch.setattr(files, "LARGEST_JSON_BYTES", 1000)
    with pytest.raises(DamagedFileError, match="larger than"):
        read_json(tmp_path / "config.json")


@posix
@pytest.mark.timeout(60)
@pytest.mark.parametrize("target", ["fifo", "/dev/zero"])
@pytest.mark.parametrize(
    "name",
    [
        *("model.safetensors", "config.json", "optimizer.pt", "scheduler.pt", "rng_state.pth"),
        *("model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"),
    ],
)
def test_a_checkpoint_with_one_of_them_is_damaged(saved: Any, name: str, target: str) -> None:
    _, path = saved.pair()
    if name.startswith("pytorch_model"):
        (path / "model.safetensors").unlink()
    (path / name).unlink(missing_ok=True)
    if target == "fifo":
        os.mkfifo(path / name)
    else:
        (path / name).symlink_to(target)
    began = time.monotonic()
    found = scan(path)
    assert time.monotonic() - began < 10
    assert any(p.kind == "corrupt" and p.name == name and "regular" in p.message for p in found.problems)
    assert verdict(found) == "critical"
