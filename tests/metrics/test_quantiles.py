"""Quantiles over layers against numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rldk_tracking.metrics.quantiles import quantiles, spread


def test_spread_is_numpys() -> None:
    values = [3.0, 1.0, 2.0, 10.0, math.nan]
    found = spread("k", values)
    assert found["k/p10"] == pytest.approx(np.quantile([1, 2, 3, 10], 0.1))
    assert (found["k/min"], found["k/max"]) == (1.0, 10.0)
    assert spread("k", [math.nan]) == {}


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40),
    st.lists(st.floats(0, 1), max_size=5),
)
def test_quantiles_are_numpys(values: list[float], shares: list[float]) -> None:
    found = quantiles(np.array(values), shares)
    assert found == pytest.approx(np.quantile(values, shares).tolist(), rel=1e-12, abs=1e-9)
