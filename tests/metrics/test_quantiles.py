"""Quantiles over layers against numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rldk_tracking.metrics.quantiles import spread


def test_spread_is_numpys() -> None:
    values = [3.0, 1.0, 2.0, 10.0, math.nan]
    found = spread("k", values)
    assert found["k/p10"] == pytest.approx(np.quantile([1, 2, 3, 10], 0.1))
    assert (found["k/min"], found["k/max"]) == (1.0, 10.0)
    assert spread("k", [math.nan]) == {}
