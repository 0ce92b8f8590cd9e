from __future__ import annotations

import statistics
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr
from sklearn.metrics import explained_variance_score

from rldk_tracking.metrics import value
from rldk_tracking.rollout import Rollout


def oracle(rollout: Rollout, tokens_of: Any) -> dict[str, float | None]:
    mask = rollout.mask if rollout.value_mask is None else rollout.value_mask
    predicted, target = tokens_of(rollout.values, mask), tokens_of(rollout.returns, mask)
    v, r = [x for row in predicted for x in row], [x for row in target for x in row]
    if not v:
        return {}
    expected: dict[str, float | None] = {
        "rldk/value/mean": statistics.fmean(v),
        "rldk/value/bias": statistics.fmean(a - b for a, b in zip(r, v, strict=True)),
    }
    if len(v) > 1:
        expected["rldk/value/std"] = statistics.stdev(v)
        if len(set(r)) > 1:
            expected["rldk/value/explained_variance"] = explained_variance_score(r, v)
    pairs = [
        (statistics.fmean(row), score)
        for row, score in zip(predicted, rollout.scores.double().tolist(), strict=True)
        if row and np.isfinite(score)
    ]
    if len(pairs) > 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scipy warns of constant input and returns NaN
            expected["rldk/value/value_reward_corr"] = float(pearsonr(*zip(*pairs, strict=True)).statistic)
    return expected


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_equals_sklearn_and_scipy(
    data: st.DataObject, a_rollout: Any, tabulate: Any, same: Any, tokens_of: Any
) -> None:
    rollout = data.draw(a_rollout())
    same(value.compute(tabulate(rollout)), oracle(rollout, tokens_of))


def test_constant_returns_cannot_be_explained(tabulate: Any) -> None:
    values, returns = torch.randn(3, 4), torch.full((3, 4), 1 / 3)
    found = value.compute(tabulate(Rollout(torch.ones(3, 4), values=values, returns=returns)))
    assert "rldk/value/explained_variance" not in found
    assert {"rldk/value/mean", "rldk/value/std", "rldk/value/bias"} == set(found)


def test_variance_is_over_the_batch_and_not_over_its_rows(tabulate: Any) -> None:
    returns = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    perfect = value.compute(tabulate(Rollout(torch.ones(2, 2), values=returns + 5, returns=returns)))
    assert perfect["rldk/value/explained_variance"] == pytest.approx(1.0)
    assert perfect["rldk/value/bias"] == pytest.approx(-5.0)


def test_half_of_a_critic(tabulate: Any) -> None:
    values = torch.tensor([[1.0, 3.0]])
    only_values = value.compute(tabulate(Rollout(torch.ones(1, 2), values=values)))
    assert only_values == {"rldk/value/mean": 2.0, "rldk/value/std": pytest.approx(2**0.5)}
    assert value.compute(tabulate(Rollout(torch.ones(1, 2), returns=values))) == {}


def test_what_is_explained_is_of_the_same_tokens(tabulate: Any) -> None:
    """A completion whose prediction is not a number has returns all the same, and no error."""
    values = torch.tensor([[1.0, 2.0], [float("nan"), 5.0], [3.0, 1.0]])
    returns = torch.tensor([[1.5, 2.5], [9.0, -9.0], [2.0, 1.0]])
    found = value.compute(tabulate(Rollout(torch.ones(3, 2), values=values, returns=returns)))
    assert set(found) == {"rldk/value/mean", "rldk/value/std", "rldk/value/bias"}
    assert found["rldk/value/bias"] == pytest.approx(statistics.fmean([0.5, 0.5, -1.0, 0.0]))
