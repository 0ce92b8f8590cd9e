from __future__ import annotations

import math
import statistics
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rldk_tracking.metrics.moments import Moments, merge_moments, moment_columns, moment_names, of_parts
from rldk_tracking.metrics.table import Table


def table_of(values: torch.Tensor, mask: torch.Tensor) -> Table:
    return Table({name: column.numpy() for name, column in moment_columns("x", values, mask).items()})


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_equal_the_statistics_of_all_tokens(data: st.DataObject, a_rollout: Any, tokens_of: Any) -> None:
    rollout = data.draw(a_rollout())
    flat = [value for row in tokens_of(rollout.logprobs, rollout.mask) for value in row]
    found = merge_moments(table_of(rollout.logprobs, rollout.mask), "x")
    if not flat:
        assert found is None
        return
    assert found is not None
    assert found.count == len(flat)
    assert found.mean == pytest.approx(statistics.fmean(flat), abs=1e-12)
    assert found.std == pytest.approx(statistics.stdev(flat) if len(flat) > 1 else None, abs=1e-9)


def test_a_small_spread_beside_a_large_mean_is_not_lost() -> None:
    values = torch.tensor([[1e9, 1e9 + 1], [1e9 + 2, 1e9 + 3]], dtype=torch.float64)
    found = merge_moments(table_of(values, torch.ones(2, 2)), "x")
    assert found is not None
    assert found.std == pytest.approx(statistics.stdev([0, 1, 2, 3]), rel=1e-9)


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e12 / 3, -7.7])
def test_equal_numbers_are_constant(value: float) -> None:
    found = merge_moments(table_of(torch.full((7, 9), value, dtype=torch.float64), torch.ones(7, 9)), "x")
    assert found is not None
    assert found.constant


def test_different_numbers_are_not_constant() -> None:
    values = torch.tensor([[1.0, 1.0, 1.0 + 1e-7]], dtype=torch.float64)
    found = merge_moments(table_of(values, torch.ones(1, 3)), "x")
    assert found is not None
    assert not found.constant
    assert Moments(1, 2.0, 0.0).std is None


def test_infinite_numbers_have_no_moments() -> None:
    values = torch.tensor([[1.0, torch.inf], [1.0, 2.0]])
    assert merge_moments(table_of(values, torch.ones(2, 2)), "x") is None


def test_rows_without_a_number_are_left_out_and_missing_columns_are_no_moments() -> None:
    table = table_of(torch.tensor([[1.0, torch.nan], [1.0, 3.0]]), torch.ones(2, 2))
    found = merge_moments(table, "x")
    assert found is not None
    assert (found.count, found.mean) == (2, 2.0)
    count, mean, _ = moment_names("x")
    assert merge_moments(Table({count: np.ones(1), mean: np.ones(1)}), "x") is None


def test_nobody_is_warned_of_infinite_numbers() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert of_parts(np.array([2.0, 1.0]), np.array([math.inf, 1.0]), np.array([0.0, 0.0])) is None
