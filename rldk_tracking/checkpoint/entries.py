"""Which tensors a file of weights holds, and where: the header of a safetensors file, the content of a `.bin` file.

safetensors (https://huggingface.co/docs/safetensors): 8 bytes of length, a JSON header of that length, raw bytes.
torch's `.bin` files are pickles: they are opened with `weights_only=True` and in no other way.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

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


class DamagedFileError(ValueError):
    """A file of weights that is not what its format says. The message names the file and what is wrong with it."""


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
    end = max((entry.stop for entry in entries), default=0)
    if end > size:
        raise DamagedFileError(f"{file.name} is truncated: it has {size} of {end} bytes.")
    for entry in entries:
        fits = entry.dtype not in RAW or entry.numel * itemsize(entry.dtype) == entry.nbytes
        if not fits or entry.start < 8 + length or min(entry.shape, default=0) < 0:
            raise DamagedFileError(f"{file.name}: the bytes of {entry.name} do not fit its shape {list(entry.shape)}.")
    return {entry.name: entry for entry in entries}


def _entry(file: Path, base: int, name: str, fields: Mapping[str, Any]) -> Entry:
    start, stop = (base + int(offset) for offset in fields["data_offsets"])
    return Entry(name, str(fields["dtype"]), tuple(int(size) for size in fields["shape"]), file, start, stop)


def read_pickle(file: Path) -> dict[str, tuple[str, tuple[int, ...], Array]]:
    """Name of each tensor to its format, its shape and its raw elements, flat.

    The elements are mapped from the file, and read when they are looked at. Files of torch before 1.6 cannot be mapped
    and are read whole.

    Raises:
        DamagedFileError: the file is truncated, or holds more than weights.
    """
    import torch

    try:
        with file.open("rb") as stream:
            zipped = stream.read(4) == b"PK\x03\x04"
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipped)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise DamagedFileError(f"{file.name} cannot be read as weights alone: {str(error).splitlines()[0]}") from error
    raw = {"F16": torch.uint16, "BF16": torch.uint16, "F8_E4M3": torch.uint8, "F8_E5M2": torch.uint8}
    found = {}
    for name, tensor in _tensors(content, ""):
        dtype = NAMES.get(str(tensor.dtype).removeprefix("torch."))
        if dtype is not None and tensor.layout == torch.strided:
            flat = tensor.contiguous().reshape(-1)
            found[name] = (dtype, tuple(tensor.shape), flat.view(raw.get(dtype, tensor.dtype)).numpy())
    return found


def _tensors(content: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """The tensors of a state dict, also of one inside another."""
    for name, value in content.items() if isinstance(content, Mapping) else ():
        if hasattr(value, "layout") and hasattr(value, "detach"):
            yield f"{prefix}{name}", value.detach()
        else:
            yield from _tensors(value, f"{prefix}{name}.")
