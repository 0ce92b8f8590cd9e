"""Headers: those of the safetensors library, and broken ones."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from rldk_tracking.checkpoint.entries import DamagedFileError, read_header


def header(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        return read_header(path, stream)


def test_what_the_library_writes(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    content = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones((), dtype=torch.bfloat16), "c": torch.zeros(0, 4)}
    save_file(content, file, metadata={"format": "pt"})
    found = header(file)
    assert set(found) == {"a", "b", "c"}
    assert (found["a"].dtype, found["a"].shape, found["a"].numel, found["a"].nbytes) == ("F32", (2, 3), 6, 24)
    assert (found["b"].shape, found["b"].numel, found["c"].numel) == ((), 1, 0)
    raw = file.read_bytes()[found["a"].start : found["a"].stop]
    assert struct.unpack("<6f", raw) == (0, 1, 2, 3, 4, 5)


@pytest.mark.parametrize("keep", [0, 5, 8, 60, -1, -100])
def test_truncated(tmp_path: Path, keep: int) -> None:
    file = tmp_path / "w.safetensors"
    save_file({"a": torch.ones(100)}, file)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(DamagedFileError, match="truncated"):
        header(file)


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"a": 3},
        {"a": {"dtype": "F32", "shape": [2]}},
        {"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 0]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}},
        {"a": {"dtype": "F32", "shape": ["x"], "data_offsets": [0, 8]}},
    ],
)
def test_nonsense(content: Any, tmp_path: Path) -> None:
    raw = json.dumps(content).encode()
    file = tmp_path / "w.safetensors"
    file.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(64))
    with pytest.raises(DamagedFileError, match="w.safetensors"):
        header(file)


@settings(max_examples=200, deadline=None)
@given(raw=st.binary(max_size=200))
def test_strangers_bytes_raise_one_kind_of_error(raw: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("x") / "w.safetensors"
    file.write_bytes(raw)
    try:
        assert header(file) == {}
    except DamagedFileError:
        pass
