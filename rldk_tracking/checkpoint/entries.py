"""Which tensors a file of weights holds, and where: the header of a safetensors file, the content of a `.bin` file; and
their number formats, as numpy arrays of float32, without torch.

safetensors (https://huggingface.co/docs/safetensors): 8 bytes of length, a JSON header of that length, raw bytes.
torch's `.bin` files are pickles: they are opened with `weights_only=True` and in no other way.

| format | decoded by |
|---|---|
| F64, F32 | nothing |
| BF16 | shifting 16 bits into the upper half of a float32 |
| F16 | moving exponent and mantissa into place and scaling by 2^112, the difference of the biases |
| F8_E4M3, F8_E5M2 | a table of 256 numbers |
"""

from __future__ import annotations

import functools
import json
import os
import pickle
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from rldk_tracking.checkpoint.files import DamagedFileError, open_regular

Array = NDArray[Any]

RAW: dict[str, type[np.generic]] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.uint16,
    "BF16": np.uint16,
    "F8_E4M3": np.uint8,
    "F8_E5M2": np.uint8,
    "I64": np.int64,
    "U64": np.uint64,
    "I32": np.int32,
    "U32": np.uint32,
    "I16": np.int16,
    "U16": np.uint16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.uint8,
}
"""Name of a safetensors format to the numpy type that its bytes are read as."""

FLOATING = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")


def itemsize(name: str) -> int:
    """Bytes of one element."""
    return np.dtype(RAW[name]).itemsize


def decode(raw: Array, name: str, out: NDArray[np.float32], *, ordered: bool = True) -> NDArray[np.floating[Any]]:
    """The numbers of a block, as float32 in `out` (F32 and F64: the block itself).

    Args:
        raw: flat, of the type `RAW[name]`.
        name: one of FLOATING.
        out: at least as long as `raw`.
        ordered: whether the order must be kept. Otherwise BF16 comes as the elements at even places, then those at odd
            ones, which takes a third of the time.
    """
    if name in ("F32", "F64"):
        return raw
    found = out[: len(raw)]
    bits = found.view(np.uint32)
    if name == "BF16":
        _decode_bf16(raw, bits, ordered)
    elif name == "F16":
        _decode_f16(raw, found, bits)
    else:
        np.take(_TABLES[name], raw, out=found)
    return found


def _decode_bf16(raw: Array, bits: NDArray[np.uint32], ordered: bool) -> None:
    half = len(raw) // 2
    if ordered or half == 0:
        bits[:] = raw
        np.left_shift(bits, 16, out=bits)
        return
    pairs = raw[: 2 * half].view(np.uint32)
    np.left_shift(pairs, 16, out=bits[:half])
    np.bitwise_and(pairs, 0xFFFF0000, out=bits[half : 2 * half])
    if len(raw) % 2:
        bits[-1] = np.uint32(raw[-1]) << 16


def _decode_f16(raw: Array, found: NDArray[np.float32], bits: NDArray[np.uint32]) -> None:
    magnitude = raw & 0x7FFF
    bits[:] = magnitude
    np.left_shift(bits, 13, out=bits)
    np.multiply(found, np.float32(2.0**112), out=found)
    if magnitude.max(initial=0) >= 0x7C00:
        special = magnitude >= 0x7C00
        found[special] = np.where(magnitude[special] == 0x7C00, np.inf, np.nan)
    sign = (raw & 0x8000).astype(np.uint32)
    np.bitwise_or(bits, np.left_shift(sign, 16, out=sign), out=bits)


def _table(exponent_bits: int, mantissa_bits: int, *, infinities: bool) -> NDArray[np.float32]:
    """All numbers of an 8-bit format (Micikevicius et al. 2022, arXiv:2209.05433, table 1)."""
    codes = np.arange(256)
    exponent = (codes >> mantissa_bits) & ((1 << exponent_bits) - 1)
    mantissa = (codes & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits)
    bias = (1 << (exponent_bits - 1)) - 1
    normal = (1 + mantissa) * 2.0 ** (exponent - bias)
    numbers = np.where(exponent == 0, mantissa * 2.0 ** (1 - bias), normal)
    if infinities:
        top = exponent == (1 << exponent_bits) - 1
        numbers = np.where(top, np.where(mantissa == 0, np.inf, np.nan), numbers)
    else:
        numbers = np.where((codes & 0x7F) == 0x7F, np.nan, numbers)
    return np.where(codes & 0x80, -numbers, numbers).astype(np.float32)


_TABLES = {"F8_E4M3": _table(4, 3, infinities=False), "F8_E5M2": _table(5, 2, infinities=True)}


LARGEST_HEADER = 100_000_000
"""Bytes, the limit of the safetensors format."""

NAMES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
"""torch's name of a type to that of safetensors."""


LARGEST_OFFSET = 1 << 62
SMALL_COPY_BYTES = 1 << 24
"""Bytes up to which a tensor of a pickle may be larger than what is stored of it, as an expanded mask is."""
NO_WEIGHTS = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, LookupError, MemoryError, OSError),
    *(RuntimeError, TypeError, ValueError, pickle.UnpicklingError, struct.error),
)
"""What torch's unpickler raises for files that are damaged, or made to be."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored tensor: where its bytes are."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    stop: int

    @property
    def numel(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def nbytes(self) -> int:
        return self.stop - self.start


def read_header(file: Path, stream: IO[bytes]) -> dict[str, Entry]:
    """The tensors of an open safetensors file, by name.

    Raises:
        DamagedFileError: the header is no header, or says more than the file holds (a truncated file).
    """
    size = os.fstat(stream.fileno()).st_size
    prefix = stream.read(8)
    length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
    if not 0 < length <= min(LARGEST_HEADER, size - 8):
        raise DamagedFileError(f"{file.name} is truncated or no safetensors file: it has {size} bytes.")
    try:
        header = json.loads(stream.read(length))
        entries = [_entry(file, 8 + length, name, fields) for name, fields in header.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise DamagedFileError(f"{file.name} has a header that is not valid: {error}.") from error
    last = 8 + length
    for entry in sorted(entries, key=lambda entry: (entry.start, entry.stop)):
        if entry.stop > size:
            raise DamagedFileError(f"{file.name} is truncated: it has {size} of at least {entry.stop} bytes.")
        fits = entry.dtype not in RAW or entry.numel * itemsize(entry.dtype) == entry.nbytes
        if not fits or entry.nbytes < 0:
            raise DamagedFileError(f"{file.name}: the bytes of {entry.name} do not fit its shape {list(entry.shape)}.")
        if entry.start < last:
            raise DamagedFileError(f"{file.name}: the bytes of {entry.name} are also those of something else.")
        last = entry.stop
    return {entry.name: entry for entry in entries}


def _entry(file: Path, base: int, name: str, fields: Mapping[str, Any]) -> Entry:
    start, stop = (base + _count(offset) for offset in fields["data_offsets"])
    return Entry(name, str(fields["dtype"]), tuple(_count(size) for size in fields["shape"]), file, start, stop)


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value < LARGEST_OFFSET:
        raise ValueError(f"{str(value)[:40]} is no count")
    return value


@dataclass(frozen=True, slots=True)
class Pickled:
    """A tensor of a pickle.

    Attributes:
        dtype: its format.
        shape: its dimensions.
        elements: gives them, flat and undecoded; as a copy where they do not lie one after the other.
    """

    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    elements: Callable[[], Array]


def read_pickle(file: Path) -> dict[str, Pickled]:
    """The tensors of a pickle, by name.

    The elements are mapped from the file, and read when they are looked at. Files of torch before 1.6 cannot be mapped
    and are read whole.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: torch is not installed.
        DamagedFileError: the file is truncated, is no regular file, or holds more than weights.
    """
    try:
        import torch
    except ImportError as error:
        raise ImportError(f"{file.name} is a pickle, which torch alone reads: pip install torch") from error

    with open_regular(file) as stream:
        zipped = stream.read(4) == b"PK\x03\x04"
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipped)
        tensors = dict(_tensors(content, ""))
    except NO_WEIGHTS as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise DamagedFileError(f"{file.name} cannot be read as weights alone: {said}") from error
    raw = {"F16": torch.uint16, "BF16": torch.uint16, "F8_E4M3": torch.uint8, "F8_E5M2": torch.uint8}
    found = {}
    for name, tensor in tensors.items():
        dtype = NAMES.get(str(tensor.dtype).removeprefix("torch."))
        if dtype is None or tensor.layout != torch.strided or tensor.device.type != "cpu":
            continue
        nbytes, stored = tensor.numel() * itemsize(dtype), tensor.untyped_storage().nbytes()
        if nbytes > max(stored, SMALL_COPY_BYTES):
            raise DamagedFileError(f"{file.name}: {name} repeats {stored} stored bytes up to {nbytes}; it is not read.")
        elements = functools.partial(_flat, tensor, raw.get(dtype, tensor.dtype))
        found[name] = Pickled(dtype, tuple(tensor.shape), nbytes, elements)
    return found


def _flat(tensor: Any, dtype: Any) -> Array:
    elements: Array = tensor.contiguous().reshape(-1).view(dtype).numpy()
    return elements


def _tensors(content: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """The tensors of a state dict, also of one inside another."""
    for name, value in content.items() if isinstance(content, Mapping) else ():
        if hasattr(value, "layout") and hasattr(value, "detach"):
            yield f"{prefix}{name}", value.detach()
        else:
            yield from _tensors(value, f"{prefix}{name}.")
