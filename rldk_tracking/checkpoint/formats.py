"""Number formats of saved tensors, as numpy arrays of float32, without torch.

| name | decoded by |
|---|---|
| F64, F32 | nothing |
| BF16 | shifting 16 bits into the upper half of a float32 |
| F16 | moving exponent and mantissa into place and scaling by 2^112, the difference of the biases |
| F8_E4M3, F8_E5M2 | a table of 256 numbers |
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

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
