"""Each statistic against numpy in float64, in every format, with numbers and without."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rldk_tracking.checkpoint.entries import NAMES
from rldk_tracking.checkpoint.statistics import SMALL, Source, TensorStatistics, Workspace, measure

BLOCK = 1024


def raw(values: torch.Tensor) -> np.ndarray:
    views = {torch.float16: torch.uint16, torch.bfloat16: torch.uint16}
    return values.flatten().view(views.get(values.dtype, values.dtype)).numpy()


def source(values: torch.Tensor) -> Source:
    flat = raw(values)
    blocks: Iterator[np.ndarray] = (flat[i : i + BLOCK] for i in range(0, len(flat), BLOCK))
    return Source(blocks, NAMES[str(values.dtype).removeprefix("torch.")])


def found_in(own: torch.Tensor, *others: torch.Tensor | None) -> TensorStatistics:
    sources = [None if other is None else source(other) for other in others]
    return measure(source(own), sources, own.numel(), Workspace(BLOCK))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("other_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [1, 7, 1024, 5001, SMALL + 4097])
def test_against_numpy(dtype: torch.dtype, other_dtype: torch.dtype, count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    own = (torch.randn(count, generator=generator, dtype=torch.float64) * 0.3 + 0.05).to(dtype)
    own[::5] = 0.0
    other = (own.double() + 0.01 * torch.randn(count, generator=generator, dtype=torch.float64)).to(other_dtype)
    a, b = own.double().numpy(), other.double().numpy()
    found = found_in(own, other, None)
    assert found.norm == pytest.approx(np.linalg.norm(a), rel=1e-5, abs=1e-12)
    assert found.mean == pytest.approx(a.mean(), rel=1e-4, abs=1e-6)
    assert found.std == pytest.approx(a.std(), rel=1e-4, abs=1e-6)
    assert found.largest == pytest.approx(np.abs(a).max(), rel=1e-6)
    assert found.zeros == pytest.approx((a == 0).mean())
    assert found.finite and found.count == count
    drift, absent = found.drift
    assert absent is None and drift is not None
    if np.linalg.norm(b) > 0 and np.linalg.norm(a) > 0:
        assert drift.relative == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(b), rel=1e-5)
        cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        assert drift.cosine == pytest.approx(cosine, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 3000),
    nan=st.integers(0, 3),
    infinite=st.integers(0, 3),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 100),
)
def test_elements_that_are_no_numbers(count: int, nan: int, infinite: int, dtype: torch.dtype, seed: int) -> None:
    generator = np.random.default_rng(seed)
    values = generator.normal(size=count)
    values[generator.random(count) < 0.1] = 0.0
    values[generator.integers(0, count, nan)] = math.nan
    values[generator.integers(0, count, infinite)] = -math.inf
    own = torch.from_numpy(values).to(dtype)
    other = torch.from_numpy(generator.normal(size=count)).to(dtype)
    other[int(generator.integers(0, count))] = math.inf
    a, b = own.double().numpy(), other.double().numpy()
    found = found_in(own, other)
    finite = a[np.isfinite(a)]
    assert (found.nan, found.infinite) == (int(np.isnan(a).sum()), int(np.isinf(a).sum()))
    assert found.zeros == pytest.approx((a == 0).sum() / count)
    if len(finite):
        assert found.norm == pytest.approx(np.linalg.norm(finite), rel=1e-5, abs=1e-9)
        assert found.mean == pytest.approx(finite.mean(), rel=1e-4, abs=1e-6)
        assert found.largest == pytest.approx(np.abs(finite).max(), rel=1e-6)
    else:
        assert found.mean is None and found.std is None and found.norm is None and found.largest is None
    both = np.isfinite(a) & np.isfinite(b)
    drift = found.drift[0]
    assert drift is not None
    assert drift.distance == pytest.approx(np.linalg.norm(a[both] - b[both]), rel=1e-5, abs=1e-9)
    assert drift.product == pytest.approx(a[both] @ b[both], rel=1e-4, abs=1e-5)
    assert drift.skipped == int((~both).sum()) > 0
    assert not drift.same and drift.relative is None and drift.cosine is None and drift.norm_ratio is None


@pytest.mark.parametrize("count", [5, SMALL + 5000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_is_the_same_element_by_element(count: int, dtype: torch.dtype) -> None:
    own = torch.randn(count).to(dtype)
    own[2] = math.nan
    own[3] = -math.inf

    def same(index: int, value: float) -> bool:
        other = own.clone()
        other[index] = value
        drift = found_in(own, other).drift[0]
        assert drift is not None and drift.skipped == len({2, 3} | ({index} if not math.isfinite(value) else set()))
        return drift.same

    assert same(2, math.nan) and same(3, -math.inf)
    assert not same(2, 1.0) and not same(3, math.inf) and not same(3, math.nan)
    assert not same(0, math.nan) and not same(count - 1, 9.0)
    assert not found_in(torch.full((count,), math.nan), own).drift[0].same  # type: ignore[union-attr]


def test_a_difference_whose_square_is_nothing() -> None:
    own = torch.zeros(SMALL + 1000)
    other = own.clone()
    other[5] = 1e-30
    drift = found_in(own, other).drift[0]
    assert drift is not None and drift.distance == 0.0 and not drift.same
    assert found_in(own, own).drift[0].same  # type: ignore[union-attr]


def test_squares_beyond_float32() -> None:
    own = torch.full((2000,), 1e30)
    found = found_in(own, own * 2)
    assert found.finite
    assert found.norm == pytest.approx(1e30 * math.sqrt(2000), rel=1e-6)
    assert found.drift[0] is not None and found.drift[0].relative == pytest.approx(0.5, rel=1e-6)


def test_small_drifts_do_not_cancel() -> None:
    own = torch.randn(50_000)
    other = own.clone()
    other[17] += 1e-3
    drift = found_in(own, other).drift[0]
    assert drift is not None
    assert drift.distance == pytest.approx(abs(float(own[17]) - float(other[17])), rel=1e-6)
    assert found_in(own, own).drift[0].distance == 0.0  # type: ignore[union-attr]


def test_gains_near_one_have_their_spread() -> None:
    gains = 1.0 + 1e-3 * torch.randn(768)
    assert found_in(gains).std == pytest.approx(gains.double().numpy().std(), rel=1e-6)


def test_empty_and_zero_tensors() -> None:
    empty = found_in(torch.empty(0), torch.empty(0))
    assert (empty.count, empty.mean, empty.norm) == (0, None, 0.0)
    zero = found_in(torch.zeros(10), torch.zeros(10)).drift[0]
    assert zero is not None and zero.relative is None and zero.cosine is None
