from __future__ import annotations

import statistics
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rldk_tracking.metrics import policy
from rldk_tracking.metrics.table import Table
from rldk_tracking.rollout import PolicyUpdate, Rollout


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_equals_plain_loops(data: st.DataObject, a_rollout: Any, tabulate: Any, same: Any, tokens_of: Any) -> None:
    rollout = data.draw(a_rollout())
    table = tabulate(rollout)
    logprobs = [value for row in tokens_of(rollout.logprobs, rollout.mask) for value in row]
    exact = rollout.entropy
    entropy = [-value for value in logprobs]
    if exact is not None:
        entropy = [value for row in tokens_of(exact, rollout.mask) for value in row]
    same(policy.compute(table), {"rldk/policy/logprob_min": min(logprobs)} if logprobs else {})
    same(policy.entropy(table, Table()), {"rldk/policy/entropy": statistics.fmean(entropy)} if entropy else {})


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_the_updates_entropy_equals_plain_loops(
    data: st.DataObject, an_update: Any, tabulate_updates: Any, same: Any, tokens_of: Any
) -> None:
    update = data.draw(an_update())
    rows = tokens_of(update.entropy, update.mask) if update.entropy is not None else []
    numbers = torch.tensor([data.draw(st.integers(0, 2)) for _ in range(len(update.mask))], dtype=torch.long)
    flat = [value for row in rows for value in row]
    found = policy.entropy(Table(), tabulate_updates(update))
    same(found, {"rldk/policy/entropy": statistics.fmean(flat)} if flat else {})
    passes = [[v for row, n in zip(rows, numbers, strict=False) if n == one for v in row] for one in range(3)]
    means = [statistics.fmean(values) for values in passes if values]
    found = policy.entropy(Table(), tabulate_updates(replace(update, micro_batch=numbers)))
    same(found, {"rldk/policy/entropy": statistics.fmean(means)} if means else {})


def test_the_mean_is_over_passes_of_each_ones_mean_over_tokens(tabulate_updates: Any) -> None:
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0]], dtype=torch.bool)
    entropy = torch.tensor([[1.0, 2.0, 3.0], [5.0, 9.0, 9.0], [0.5, 0.7, 9.0]])
    update = PolicyUpdate(mask, torch.zeros(3, 3), entropy=entropy, micro_batch=torch.tensor([0, 0, 1]))
    expected = ((1.0 + 2.0 + 3.0 + 5.0) / 4 + (0.5 + 0.7) / 2) / 2
    assert policy.entropy(Table(), tabulate_updates(update)) == {"rldk/policy/entropy": pytest.approx(expected)}


def test_which_entropy_a_step_has(tabulate: Any, tabulate_updates: Any) -> None:
    """That of the loss before that of the rollout, and the exact one before the estimate."""

    def entropy(rollout: Rollout | None, update: PolicyUpdate | None) -> float | None:
        tables = tabulate(rollout) if rollout else Table(), tabulate_updates(update) if update else Table()
        return policy.entropy(*tables).get("rldk/policy/entropy")

    mask, logprobs, old = torch.ones(1, 2), torch.full((1, 2), -3.0), torch.full((1, 2), -2.5)
    estimated = Rollout(mask, logprobs=logprobs)
    exact = replace(estimated, entropy=torch.tensor([[1.0, 2.0]]))
    without = PolicyUpdate(mask, logprobs, old)
    within = replace(without, entropy=torch.tensor([[0.5, 0.75]]))
    assert entropy(estimated, without) == 3.0, "PPO"
    assert entropy(exact, within) == 0.625, "GRPO"
    assert entropy(estimated, within) == 0.625
    assert entropy(exact, without) == entropy(exact, None) == 1.5
    assert entropy(None, within) == 0.625
    assert entropy(None, without) is None
    unknown = replace(within, entropy=torch.full((1, 2), torch.nan))
    assert entropy(exact, unknown) == 1.5


def test_sampled_tokens_estimate_the_exact_entropy(tabulate: Any) -> None:
    logits = torch.randn(1, 1, 20, generator=torch.Generator().manual_seed(0)).expand(64, 256, 20)
    logps = logits.log_softmax(-1)
    tokens = torch.distributions.Categorical(logits=logits).sample()
    exact = -(logps.exp() * logps).sum(-1)
    sampled = Rollout(torch.ones(64, 256), logprobs=logps.gather(-1, tokens[..., None]).squeeze(-1))
    estimate = policy.entropy(tabulate(sampled), Table())["rldk/policy/entropy"]
    truth = policy.entropy(tabulate(replace(sampled, entropy=exact)), Table())["rldk/policy/entropy"]
    assert truth == pytest.approx(float(exact[0, 0]))
    assert estimate == pytest.approx(truth, rel=0.03)


def test_exact_entropy_needs_no_log_probabilities(tabulate: Any) -> None:
    table = tabulate(Rollout(torch.ones(1, 2), entropy=torch.tensor([[1.0, 2.0]])))
    assert policy.compute(table) == {}
    assert policy.entropy(table, Table()) == {"rldk/policy/entropy": 1.5}


def test_an_impossible_token_has_no_finite_log_probability(tabulate: Any) -> None:
    table = tabulate(Rollout(torch.ones(1, 2), logprobs=torch.tensor([[-1.0, -torch.inf]])))
    assert policy.compute(table) == policy.entropy(table, Table()) == {}
