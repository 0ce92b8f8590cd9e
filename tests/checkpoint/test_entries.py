"""Files: those of the safetensors library and of torch, and broken ones."""

from __future__ import annotations

import json
import math
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from rldk_tracking.checkpoint.entries import NAMES, RAW, SMALL_COPY_BYTES, decode, itemsize, read_header, read_pickle
from rldk_tracking.checkpoint.files import DamagedFileError


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
        {"a": {"dtype": "F32", "shape": [math.inf], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, math.inf]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [math.nan, 8]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 10**400]}},
        {"a": {"dtype": "F32", "shape": [2.5], "data_offsets": [0, 10]}},
        {"a": {"dtype": "F32", "shape": [True, 2], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F4", "shape": [2], "data_offsets": [8, 0]}},
        {
            "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
            "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
        },
        {
            "a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 8]},
            "b": {"dtype": "F4", "shape": [2], "data_offsets": [0, 8]},
        },
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


class Bomb:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.mark,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int64])
def test_every_type_comes_as_its_raw_elements(dtype: torch.dtype, tmp_path: Path) -> None:
    values = torch.arange(6).reshape(2, 3).to(dtype)
    torch.save({"a": values}, tmp_path / "w.bin")
    found = read_pickle(tmp_path / "w.bin")["a"]
    raw = found.elements()
    assert found.dtype == NAMES[str(dtype).removeprefix("torch.")]
    assert (found.shape, found.nbytes) == ((2, 3), raw.nbytes)
    np.testing.assert_array_equal(raw.view(np.uint8), values.flatten().view(torch.uint8).numpy())


def test_a_state_dict_inside_another_keeps_its_path(tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.ones(2)}, "step": 3}, tmp_path / "w.bin")
    assert list(read_pickle(tmp_path / "w.bin")) == ["model.a"]


def test_what_holds_more_than_weights_is_refused_and_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    torch.save({"a": torch.ones(2), "b": Bomb(str(mark))}, tmp_path / "w.bin")
    with pytest.raises(DamagedFileError, match="cannot be read as weights alone"):
        read_pickle(tmp_path / "w.bin")
    assert not mark.exists()


def test_a_truncated_pickle_is_damaged(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1000)}, tmp_path / "w.bin")
    whole = (tmp_path / "w.bin").read_bytes()
    (tmp_path / "w.bin").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DamagedFileError):
        read_pickle(tmp_path / "w.bin")


def test_a_tensor_that_repeats_a_few_bytes_is_not_formed(tmp_path: Path) -> None:
    """256 GB out of four bytes."""
    torch.save({"a": torch.ones(1).expand(64, 1_000_000_000)}, tmp_path / "w.bin")
    with pytest.raises(DamagedFileError, match="a repeats 4 stored bytes up to 256000000000"):
        read_pickle(tmp_path / "w.bin")


def test_a_small_one_is_as_torch_has_it(tmp_path: Path) -> None:
    assert SMALL_COPY_BYTES > 400
    torch.save({"a": torch.arange(10.0).expand(10, 10), "b": torch.arange(6.0).reshape(2, 3).t()}, tmp_path / "w.bin")
    found = read_pickle(tmp_path / "w.bin")
    np.testing.assert_array_equal(found["a"].elements(), np.tile(np.arange(10.0), 10))
    np.testing.assert_array_equal(found["b"].elements(), [0, 3, 1, 4, 2, 5])


def test_a_pickle_that_holds_itself_is_damaged(tmp_path: Path) -> None:
    content: dict[str, Any] = {"a": torch.ones(1)}
    content["b"] = content
    torch.save(content, tmp_path / "w.bin")
    with pytest.raises(DamagedFileError, match=r"w\.bin"):
        read_pickle(tmp_path / "w.bin")


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 400), byte=st.integers(0, 255), protocol=st.booleans())
def test_a_pickle_with_a_wrong_byte_raises_one_kind_of_error(
    place: int, byte: int, protocol: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("x") / "w.bin"
    torch.save({"a": torch.ones(3)}, file, _use_new_zipfile_serialization=protocol)
    content = bytearray(file.read_bytes())
    content[place % len(content)] = byte
    file.write_bytes(bytes(content))
    try:
        read_pickle(file)
    except DamagedFileError:
        pass


@pytest.mark.parametrize(
    ("name", "dtype", "raw"),
    [
        ("F16", torch.float16, torch.uint16),
        ("BF16", torch.bfloat16, torch.uint16),
        ("F8_E4M3", torch.float8_e4m3fn, torch.uint8),
        ("F8_E5M2", torch.float8_e5m2, torch.uint8),
    ],
)
def test_all_bit_patterns(name: str, dtype: torch.dtype, raw: torch.dtype) -> None:
    count = 1 << (8 * itemsize(name))
    bits = np.arange(count, dtype=RAW[name])
    want = torch.from_numpy(bits).view(dtype).float().numpy()
    found = decode(bits, name, np.empty(count + 5, dtype=np.float32))
    np.testing.assert_array_equal(found, want)  # NaN equals NaN here
    np.testing.assert_array_equal(np.signbit(found[want == 0]), np.signbit(want[want == 0]))


@pytest.mark.parametrize("count", [0, 1, 2, 7, 64])
def test_unordered_bf16_is_the_even_then_the_odd_places(count: int) -> None:
    values = torch.randn(count).bfloat16()
    raw = values.view(torch.uint16).numpy()
    found = decode(raw, "BF16", np.empty(64, dtype=np.float32), ordered=False)
    half = count // 2
    numbers = values.float().numpy()
    want = np.concatenate([numbers[: 2 * half : 2], numbers[1 : 2 * half : 2], numbers[2 * half :]])
    np.testing.assert_array_equal(found, want)


def test_wide_formats_are_not_copied() -> None:
    for name in ("F32", "F64"):
        raw = np.arange(3, dtype=RAW[name])
        assert decode(raw, name, np.empty(3, dtype=np.float32)) is raw
