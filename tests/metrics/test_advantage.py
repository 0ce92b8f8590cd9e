"""Advantages against plain loops and scipy."""

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
from scipy.stats import spearmanr

from rldk_tracking.metrics import advantage
from rldk_tracking.rollout import Rollout


def per_row(values: torch.Tensor, rollout: Rollout, tokens_of: Any) -> list[list[float]]:
    if values.ndim == 2:
        return tokens_of(values, rollout.mask)
    return [[x] for x in values.double().tolist()]


def advantage_oracle(rollout: Rollout, tokens_of: Any) -> dict[str, float]:
    expected: dict[str, float] = {}
    used = per_row(rollout.advantages, rollout, tokens_of)
    flat = [a for row in used for a in row]
    if not flat:
        return {}
    expected["rldk/advantage/mean"] = statistics.fmean(flat)
    expected["rldk/advantage/fraction_positive"] = sum(a > 0 for a in flat) / len(flat)
    expected["rldk/advantage/abs_p99"] = float(np.quantile(np.abs(flat), 0.99))
    if len(flat) > 1:
        expected["rldk/advantage/std"] = statistics.stdev(flat)
    ordered = used
    if rollout.raw_advantages is not None:
        ordered = per_row(rollout.raw_advantages, rollout, tokens_of)
        raw = [a for row in ordered for a in row]
        expected["rldk/advantage/raw_mean"] = statistics.fmean(raw)
        if len(raw) > 1:
            expected["rldk/advantage/raw_std"] = statistics.stdev(raw)
    lengths = rollout.mask.bool().sum(1).tolist()
    pairs = [(statistics.fmean(row), n) for row, n in zip(ordered, lengths, strict=True) if row]
    if len(pairs) > 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scipy warns of constant input and returns NaN
            expected["rldk/advantage/length_corr"] = float(spearmanr(pairs).statistic)
    return expected


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_advantages_equal_plain_loops_and_scipy(
    data: st.DataObject, a_rollout: Any, tabulate: Any, same: Any, tokens_of: Any
) -> None:
    rollout = data.draw(a_rollout())
    same(advantage.compute(tabulate(rollout)), advantage_oracle(rollout, tokens_of))


def test_zero_is_not_positive_and_nan_counts_nowhere(tabulate: Any) -> None:
    advantages = torch.tensor([1.0, 0.0, -1.0, 2.0, math.nan])
    found = advantage.compute(tabulate(Rollout(torch.ones(5, 2), advantages=advantages)))
    assert found["rldk/advantage/fraction_positive"] == 0.5
    assert found["rldk/advantage/mean"] == 0.5
    assert found["rldk/advantage/abs_p99"] == pytest.approx(np.quantile([1, 0, 1, 2], 0.99))


def test_nothing_without_advantages(tabulate: Any) -> None:
    assert advantage.compute(tabulate(Rollout(torch.ones(2, 2)))) == {}


def test_a_completion_with_a_nan_advantage_counts_nowhere(tabulate: Any) -> None:
    advantages = torch.tensor([[1.0, math.nan], [1.0, -1.0], [math.nan, -2.0]])
    mask = torch.tensor([[1, 1], [1, 1], [0, 1]])
    found = advantage.compute(tabulate(Rollout(mask, advantages=advantages)))
    assert found["rldk/advantage/fraction_positive"] == pytest.approx(1 / 3)
    assert found["rldk/advantage/mean"] == pytest.approx(-2 / 3)
    assert found["rldk/advantage/abs_p99"] == pytest.approx(np.quantile([1, 1, 1, 2], 0.99))
