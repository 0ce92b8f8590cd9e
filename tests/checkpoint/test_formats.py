"""Every number of the small formats, against torch's own conversion."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rldk_tracking.checkpoint.formats import RAW, decode, itemsize


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
