"""Products of thin matrices against those that are formed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from rldk_tracking.checkpoint import low_rank
from rldk_tracking.checkpoint.low_rank import LowRank, against_weights
from rldk_tracking.checkpoint.reader import Checkpoint


def change(rng: np.random.Generator, rows: int, columns: int, rank: int) -> LowRank:
    return LowRank(rng.normal(size=(rows, rank)), rng.normal(size=(rank, columns)))


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 9), columns=st.integers(1, 9), ranks=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    seed=st.integers(0, 50),
)  # fmt: skip
def test_against_the_formed_matrices(rows: int, columns: int, ranks: tuple[int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (change(rng, rows, columns, rank) for rank in ranks)
    formed_a, formed_b = a.left @ a.right, b.left @ b.right
    assert a.square == pytest.approx(np.sum(formed_a**2), rel=1e-9)
    assert a.inner(b) == pytest.approx(np.sum(formed_a * formed_b), rel=1e-9, abs=1e-9)
    assert a.minus(b).square == pytest.approx(np.sum((formed_a - formed_b) ** 2), rel=1e-9, abs=1e-9)


def test_small_differences_do_not_cancel() -> None:
    rng = np.random.default_rng(0)
    a = change(rng, 50, 60, 4)
    b = LowRank(a.left * (1 + 1e-12), a.right)
    formed = np.linalg.norm((b.left - a.left) @ a.right)
    assert np.sqrt(a.minus(b).square) == pytest.approx(formed, rel=1e-3)


def test_weights_in_blocks(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(low_rank, "BLOCK", 100)  # two rows, and a last block of one
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(7, 5, 10)).astype(np.float32)
    save_file({"w": weights}, tmp_path / "model.safetensors")
    changes = [change(rng, 7, 50, rank) for rank in (3, 1)]
    with Checkpoint.open(tmp_path) as checkpoint:
        square, products = against_weights(checkpoint, "w", changes)
    flat = weights.reshape(7, 50).astype(float)
    assert square == pytest.approx(np.sum(flat**2), rel=1e-6)
    assert products == pytest.approx([np.sum(flat * (c.left @ c.right)) for c in changes], rel=1e-5)
