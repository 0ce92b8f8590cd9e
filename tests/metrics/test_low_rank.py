from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rldk_tracking.metrics.low_rank import change_square


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 9), st.integers(1, 9), st.sampled_from([1.0, 1e-6]))
def test_the_product_that_is_never_formed(seed: int, rank: int, rows: int, columns: int, size: float) -> None:
    g = torch.Generator().manual_seed(seed)
    a, b = torch.randn(rank, columns, generator=g), torch.randn(rows, rank, generator=g)
    new = (a + size * torch.randn(a.shape, generator=g), b + size * torch.randn(b.shape, generator=g))
    formed = new[1].double() @ new[0].double() - b.double() @ a.double()
    assert change_square((a, b), new).item() == pytest.approx(formed.square().sum().item(), rel=1e-6)


def test_the_same_weights_by_other_matrices_are_no_change() -> None:
    a, b = torch.randn(2, 7), torch.randn(5, 2)
    assert change_square((a, b), (2 * a, b / 2)).item() < 1e-20 * b.square().sum().item() * a.square().sum().item()
    assert change_square((a, b), (a, b)).item() == 0.0
