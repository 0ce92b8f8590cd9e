"""The largest singular value against scipy's decomposition."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import scipy.linalg

from rldk_tracking.checkpoint.spectrum import spectral_norm


def blocks_of(matrix: np.ndarray, calls: list[int] | None = None) -> Callable[[int], Iterator[np.ndarray]]:
    flat = matrix.reshape(-1)

    def blocks(size: int) -> Iterator[np.ndarray]:
        if calls is not None:
            calls.append(size)
        return (flat[start : start + size] for start in range(0, len(flat), size))

    return blocks


@pytest.mark.parametrize("shape", [(5, 3), (64, 100), (300, 20), (1, 9), (9, 1), (4, 3, 5)])
@pytest.mark.parametrize("block", [64, 1 << 17])
def test_against_scipy(shape: tuple[int, ...], block: int) -> None:
    matrix = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    largest = scipy.linalg.svdvals(matrix.reshape(shape[0], -1).astype(float))[0]
    found = spectral_norm(blocks_of(matrix), "F32", shape, block=block)
    assert found is not None
    assert found[0] == pytest.approx(largest, rel=0.01)
    assert found[0] <= largest * (1 + 1e-5)


def test_bf16() -> None:
    matrix = np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32)
    bits = (matrix.view(np.uint32) >> 16).astype(np.uint16)
    rounded = (bits.astype(np.uint32) << 16).view(np.float32)
    found = spectral_norm(blocks_of(bits), "BF16", (40, 30))
    assert found is not None
    assert found[0] == pytest.approx(scipy.linalg.svdvals(rounded.astype(float))[0], rel=0.01)


def test_a_warm_start_takes_fewer_passes() -> None:
    generator = np.random.default_rng(0)
    matrix = generator.normal(size=(200, 300)).astype(np.float32)
    cold: list[int] = []
    found = spectral_norm(blocks_of(matrix, cold), "F32", matrix.shape)
    assert found is not None
    warm: list[int] = []
    nudged = matrix + 1e-4 * generator.normal(size=matrix.shape).astype(np.float32)
    assert spectral_norm(blocks_of(nudged, warm), "F32", matrix.shape, found[1]) is not None
    assert len(warm) < len(cold) / 2


def test_degenerate() -> None:
    assert spectral_norm(blocks_of(np.ones(4, np.float32)), "F32", (4,)) is None
    assert spectral_norm(blocks_of(np.ones((0, 4), np.float32)), "F32", (0, 4)) is None
    zero = spectral_norm(blocks_of(np.zeros((4, 4), np.float32)), "F32", (4, 4))
    assert zero is not None and zero[0] == 0.0
