"""Weights in torch's `.bin` files, which are pickles: they are opened with `weights_only=True` and in no other way."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rldk_tracking.checkpoint.entries import DamagedFileError
from rldk_tracking.checkpoint.formats import Array

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
