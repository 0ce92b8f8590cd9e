from __future__ import annotations

import math
import statistics
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rldk_tracking.metrics import kl
from rldk_tracking.rollout import Rollout


def oracle(rollout: Rollout, tokens_of: Any) -> dict[str, float]:
    policy, reference = tokens_of(rollout.logprobs, rollout.mask), tokens_of(rollout.ref_logprobs, rollout.mask)
    rows = [[p - r for p, r in zip(a, b, strict=True)] for a, b in zip(policy, reference, strict=True)]
    per_sequence = [sum(row) for row in rows]
    flat = [d for row in rows for d in row]
    if not flat:
        return {}
    expected = {
        "rldk/kl/ref_k1": statistics.fmean(flat),
        "rldk/kl/ref_k2": statistics.fmean(d * d / 2 for d in flat),
        "rldk/kl/ref_k3": statistics.fmean(math.exp(-d) - 1 + d for d in flat),
        "rldk/kl/ref_per_sequence": statistics.fmean(per_sequence),
        "rldk/kl/ref_p99": float(np.quantile(flat, 0.99)),
    }
    expected["rldk/kl/ref_k1_k3_gap"] = expected["rldk/kl/ref_k1"] - expected["rldk/kl/ref_k3"]
    if len(rows) > 1:
        mean = expected["rldk/kl/ref_k1"]
        spread = sum((sum(row) - mean * len(row)) ** 2 for row in rows) / (len(rows) - 1)
        expected["rldk/kl/ref_k1_stderr"] = math.sqrt(len(rows) * spread) / len(flat)
    return expected


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_equals_plain_loops(data: st.DataObject, a_rollout: Any, tabulate: Any, same: Any, tokens_of: Any) -> None:
    rollout = data.draw(a_rollout())
    same(kl.compute(tabulate(rollout)), oracle(rollout, tokens_of))


def test_standard_error_is_that_of_repeated_batches(tabulate: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    estimates, errors = [], []
    for _ in range(300):
        lengths = torch.randint(1, 40, (48, 1), generator=generator)
        mask = torch.arange(40)[None] < lengths
        of_sequence = torch.randn(48, 1, generator=generator) * 0.1
        difference = 0.05 + of_sequence + torch.randn(48, 40, generator=generator) * 0.1
        found = kl.compute(tabulate(Rollout(mask, logprobs=difference, ref_logprobs=torch.zeros(48, 40))))
        estimates.append(found["rldk/kl/ref_k1"])
        errors.append(found["rldk/kl/ref_k1_stderr"])
    assert statistics.fmean(errors) == pytest.approx(statistics.stdev(estimates), rel=0.12)


def test_an_overflow_leaves_the_key_out_instead_of_the_completion(tabulate: Any) -> None:
    logprobs = torch.tensor([[-800.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
    reference = torch.tensor([[0.0, -1.0], [-1.1, -1.1]], dtype=torch.float64)
    found = kl.compute(tabulate(Rollout(torch.ones(2, 2), logprobs=logprobs, ref_logprobs=reference)))
    assert "rldk/kl/ref_k3" not in found
    assert found["rldk/kl/ref_k1"] == pytest.approx((-800 + 0 + 0.1 + 0.1) / 4)


def test_nothing_without_a_reference(tabulate: Any) -> None:
    assert kl.compute(tabulate(Rollout(torch.ones(2, 3), logprobs=torch.zeros(2, 3)))) == {}


def test_a_completion_without_a_number_is_left_out_whole(tabulate: Any) -> None:
    """As the rows are that a trainer hides from its model: their log-probabilities are NaN."""
    logprobs = torch.tensor([[-1.0, -2.0], [math.nan, -1.4]])
    found = kl.compute(tabulate(Rollout(torch.ones(2, 2), logprobs=logprobs, ref_logprobs=torch.full((2, 2), -1.5))))
    assert found["rldk/kl/ref_k1"] == found["rldk/kl/ref_per_sequence"] == 0.0
    assert found["rldk/kl/ref_k2"] == pytest.approx(0.125)
    assert found["rldk/kl/ref_p99"] == pytest.approx(np.quantile([0.5, -0.5, 0.1], 0.99))
