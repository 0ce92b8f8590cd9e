from __future__ import annotations

import statistics
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rldk_tracking.metrics import policy
from rldk_tracking.rollout import Rollout


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_equals_plain_loops(data: st.DataObject, a_rollout: Any, tabulate: Any, same: Any, tokens_of: Any) -> None:
    rollout = data.draw(a_rollout())
    logprobs = [value for row in tokens_of(rollout.logprobs, rollout.mask) for value in row]
    exact = rollout.entropy
    entropy = [-value for value in logprobs]
    if exact is not None:
        entropy = [value for row in tokens_of(exact, rollout.mask) for value in row]
    expected = {}
    if logprobs:
        expected["rldk/policy/entropy"] = statistics.fmean(entropy)
        expected["rldk/policy/logprob_min"] = min(logprobs)
    same(policy.compute(tabulate(rollout)), expected)


def test_sampled_tokens_estimate_the_exact_entropy(tabulate: Any) -> None:
    logits = torch.randn(1, 1, 20, generator=torch.Generator().manual_seed(0)).expand(64, 256, 20)
    logps = logits.log_softmax(-1)
    tokens = torch.distributions.Categorical(logits=logits).sample()
    exact = -(logps.exp() * logps).sum(-1)
    sampled = Rollout(torch.ones(64, 256), logprobs=logps.gather(-1, tokens[..., None]).squeeze(-1))
    estimate = policy.compute(tabulate(sampled))["rldk/policy/entropy"]
    truth = policy.compute(tabulate(replace(sampled, entropy=exact)))["rldk/policy/entropy"]
    assert truth == pytest.approx(float(exact[0, 0]))
    assert estimate == pytest.approx(truth, rel=0.03)


def test_exact_entropy_needs_no_log_probabilities(tabulate: Any) -> None:
    found = policy.compute(tabulate(Rollout(torch.ones(1, 2), entropy=torch.tensor([[1.0, 2.0]]))))
    assert found == {"rldk/policy/entropy": 1.5}


def test_an_impossible_token_has_no_finite_log_probability(tabulate: Any) -> None:
    logprobs = torch.tensor([[-1.0, -torch.inf]])
    assert policy.compute(tabulate(Rollout(torch.ones(1, 2), logprobs=logprobs))) == {}
