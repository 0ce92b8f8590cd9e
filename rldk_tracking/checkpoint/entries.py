"""The header of a safetensors file: which tensors it holds, and where their bytes are.

The format (https://huggingface.co/docs/safetensors): 8 bytes of length, a JSON header of that length, raw bytes.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rldk_tracking.checkpoint.formats import RAW, itemsize

LARGEST_HEADER = 100_000_000
"""Bytes, the limit of the safetensors format."""


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
