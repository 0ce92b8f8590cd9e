"""Which tensors a file of weights holds, and where: the header of a safetensors file, the content of a `.bin` file.

safetensors (https://huggingface.co/docs/safetensors): 8 bytes of length, a JSON header of that length, raw bytes.
torch's `.bin` files are pickles: they are opened with `weights_only=True` and in no other way.
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

from rldk_tracking.checkpoint.files import DamagedFileError, open_regular
from rldk_tracking.checkpoint.formats import RAW, Array, itemsize

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
