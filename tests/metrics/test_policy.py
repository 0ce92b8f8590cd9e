"""Entropies and ratios against plain loops."""

from __future__ import annotations

import math
import statistics
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rldk_tracking.metrics import policy
from rldk_tracking.metrics.columns import Table
from rldk_tracking.rollout import PolicyUpdate, Rollout


def entropy_of(rollout: Table, update: Table) -> dict[str, float]:
    return {key: value for key, value in policy.compute_update(rollout, update).items() if key == "rldk/policy/entropy"}


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
    same(entropy_of(table, Table()), {"rldk/policy/entropy": statistics.fmean(entropy)} if entropy else {})


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_the_updates_entropy_equals_plain_loops(
    data: st.DataObject, an_update: Any, tabulate_updates: Any, same: Any, tokens_of: Any
) -> None:
    update = data.draw(an_update())
    rows = tokens_of(update.entropy, update.mask) if update.entropy is not None else []
    numbers = torch.tensor([data.draw(st.integers(0, 2)) for _ in range(len(update.mask))], dtype=torch.long)
    flat = [value for row in rows for value in row]
    found = entropy_of(Table(), tabulate_updates(update))
    same(found, {"rldk/policy/entropy": statistics.fmean(flat)} if flat else {})
    passes = [[v for row, n in zip(rows, numbers, strict=False) if n == one for v in row] for one in range(3)]
    means = [statistics.fmean(values) for values in passes if values]
    found = entropy_of(Table(), tabulate_updates(replace(update, micro_batch=numbers)))
    same(found, {"rldk/policy/entropy": statistics.fmean(means)} if means else {})


def test_the_mean_is_over_passes_of_each_ones_mean_over_tokens(tabulate_updates: Any) -> None:
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0]], dtype=torch.bool)
    entropy = torch.tensor([[1.0, 2.0, 3.0], [5.0, 9.0, 9.0], [0.5, 0.7, 9.0]])
    update = PolicyUpdate(mask, torch.zeros(3, 3), entropy=entropy, micro_batch=torch.tensor([0, 0, 1]))
    expected = ((1.0 + 2.0 + 3.0 + 5.0) / 4 + (0.5 + 0.7) / 2) / 2
    assert entropy_of(Table(), tabulate_updates(update)) == {"rldk/policy/entropy": pytest.approx(expected)}


def test_which_entropy_a_step_has(tabulate: Any, tabulate_updates: Any) -> None:
    """That of the loss before that of the rollout, and the exact one before the estimate."""

    def entropy(rollout: Rollout | None, update: PolicyUpdate | None) -> float | None:
        tables = tabulate(rollout) if rollout else Table(), tabulate_updates(update) if update else Table()
        return policy.compute_update(*tables).get("rldk/policy/entropy")

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
    estimate = entropy_of(tabulate(sampled), Table())["rldk/policy/entropy"]
    truth = entropy_of(tabulate(replace(sampled, entropy=exact)), Table())["rldk/policy/entropy"]
    assert truth == pytest.approx(float(exact[0, 0]))
    assert estimate == pytest.approx(truth, rel=0.03)


def test_exact_entropy_needs_no_log_probabilities(tabulate: Any) -> None:
    table = tabulate(Rollout(torch.ones(1, 2), entropy=torch.tensor([[1.0, 2.0]])))
    assert policy.compute(table) == {}
    assert entropy_of(table, Table()) == {"rldk/policy/entropy": 1.5}


def test_an_impossible_token_has_no_finite_log_probability(tabulate: Any) -> None:
    table = tabulate(Rollout(torch.ones(1, 2), logprobs=torch.tensor([[-1.0, -torch.inf]])))
    assert policy.compute(table) == entropy_of(table, Table()) == {}


def sample_size(weights: list[float]) -> float:
    return sum(weights) ** 2 / (len(weights) * sum(w * w for w in weights))


def is_clipped(update: PolicyUpdate, w: float, a: float) -> tuple[bool, bool]:
    """Below and above, by the derivative of the loss of one token (CISPO: by its cap)."""
    low, high = update.clip_low, update.clip_high
    upper = math.inf if high is None else 1 + high
    delta = math.inf if update.clip_delta is None or high is None else update.clip_delta
    if update.capped:
        return low is not None and w < 1 - low and a < 0, w > upper
    below = low is not None and w < 1 - low and a < 0
    above = w > min(upper, delta) if a > 0 else a < 0 and delta < math.inf and w > max(upper, delta)
    return below, above


def ratio_oracle(update: PolicyUpdate, tokens_of: Any) -> dict[str, float]:
    expected: dict[str, float] = {}
    mask = update.mask
    if not mask.bool().any():
        return expected
    if update.old_logprobs is None:
        return expected
    new, old = tokens_of(update.new_logprobs, mask), tokens_of(update.old_logprobs, mask)
    rows = [[n - o for n, o in zip(a, b, strict=True)] for a, b in zip(new, old, strict=True)]
    flat = [math.exp(d) for row in rows for d in row]
    out = [False] * len(rows) if update.excluded is None else update.excluded.tolist()
    whole = [math.exp(sum(row)) for row, excluded in zip(rows, out, strict=True) if not excluded]
    power = [1 / len(row) if update.geometric_mean else 1.0 for row in rows if row]
    root = [math.exp(sum(row)) ** p for row, p in zip([row for row in rows if row], power, strict=True)]
    each = [w for row, w in zip([row for row in rows if row], root, strict=True) for _ in row]
    units = (each if update.clips_tokens else root) if update.sequence_level else flat
    expected |= {
        "rldk/policy/approx_kl": statistics.fmean(d * d / 2 for row in rows for d in row),
        "rldk/policy/ratio_mean": statistics.fmean(units),
        "rldk/policy/ratio_max": max(units),
        "rldk/policy/ess": sample_size(flat),
    }
    if whole:
        expected["rldk/policy/ess_sequence"] = sample_size(whole)
    if update.first_epoch:
        expected["rldk/policy/first_epoch_ratio"] = statistics.fmean(flat)
    if update.advantages is None:
        return expected
    weighed = mask.bool() if update.loss_mask is None else update.loss_mask.bool()
    per_token = update.advantages.ndim == 2
    advantages = tokens_of(update.advantages, mask) if per_token else update.advantages.double().tolist()
    low = high = count = 0
    for row, advantage, chosen in zip(rows, advantages, tokens_of(weighed, mask), strict=True):
        if not any(chosen):
            continue
        weights = advantage if per_token else [advantage] * len(row)
        whole_ratio = math.exp(sum(row)) ** (1 / len(row) if update.geometric_mean else 1.0)
        if update.sequence_level and not update.clips_tokens:
            pairs = [(whole_ratio, statistics.fmean(advantage) if per_token else advantage)]
        else:
            ratios = [whole_ratio if update.sequence_level else math.exp(d) for d in row]
            pairs = [pair for pair, is_in in zip(zip(ratios, weights, strict=True), chosen, strict=True) if is_in]
        for w, a in pairs:
            below, above = is_clipped(update, w, a)
            low, high, count = low + below, high + above, count + 1
    sides = {
        "low": low if update.clip_low is not None else None,
        "high": high if update.clip_high is not None else None,
    }
    known = {side: clipped / count for side, clipped in sides.items() if clipped is not None and count}
    expected |= {f"rldk/policy/clip_fraction_{side}": share for side, share in known.items()}
    if known:
        expected["rldk/policy/clip_fraction"] = sum(known.values())
    return expected


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_ratios_equal_plain_loops(
    data: st.DataObject, an_update: Any, tabulate_updates: Any, same: Any, tokens_of: Any
) -> None:
    update = data.draw(an_update())
    found = policy.ratio_columns(update)
    assert set(found) <= set(policy.RATIO_COLUMNS)
    same(policy.compute_ratios(tabulate_updates(update)), ratio_oracle(update, tokens_of))


def ppo_clip_fraction(ratios: torch.Tensor, advantages: torch.Tensor, clip: float) -> float:
    """Where the clipped term of the objective is the larger loss (Schulman et al. 2017, equation 7)."""
    plain, clipped = -advantages * ratios, -advantages * ratios.clamp(1 - clip, 1 + clip)
    return float((clipped > plain).double().mean())


def test_clip_fraction_is_where_the_objective_has_no_gradient(tabulate_updates: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    new = torch.randn(20, 30, generator=generator, dtype=torch.float64) * 0.3 - 3
    old = new + torch.randn(20, 30, generator=generator, dtype=torch.float64) * 0.3
    advantages = torch.randn(20, 30, generator=generator, dtype=torch.float64)
    new.requires_grad_()
    ratios = (new - old).exp()
    loss = torch.max(-advantages * ratios, -advantages * ratios.clamp(0.8, 1.2)).sum()
    (gradient,) = torch.autograd.grad(loss, new)
    update = PolicyUpdate(torch.ones(20, 30), new.detach(), old, advantages, clip_low=0.2, clip_high=0.2)
    found = policy.compute_ratios(tabulate_updates(update))["rldk/policy/clip_fraction"]
    assert found == pytest.approx(float((gradient == 0).double().mean()))
    assert found == pytest.approx(ppo_clip_fraction(ratios, advantages, 0.2))
    assert 0.05 < found < 0.6


def test_first_epoch_counts_only_rows_that_no_step_lies_before(tabulate_updates: Any) -> None:
    def update(shift: float, first: bool, sequence_level: bool = False) -> PolicyUpdate:
        old = torch.full((2, 3), -1.0)
        return PolicyUpdate(torch.ones(2, 3), old + shift, old, first_epoch=first, sequence_level=sequence_level)

    both = policy.compute_ratios(tabulate_updates(update(0.0, True), update(0.5, False)))
    assert both["rldk/policy/first_epoch_ratio"] == pytest.approx(1.0)
    assert both["rldk/policy/ratio_mean"] == pytest.approx((1 + math.exp(0.5)) / 2)
    later = policy.compute_ratios(tabulate_updates(update(0.5, False)))
    assert "rldk/policy/first_epoch_ratio" not in later
    bug = policy.compute_ratios(tabulate_updates(update(0.1, True, sequence_level=True)))
    assert bug["rldk/policy/first_epoch_ratio"] == pytest.approx(math.exp(0.1))
    assert bug["rldk/policy/ratio_mean"] == pytest.approx(math.exp(0.3))


def test_ratios_beyond_double_precision_leave_the_size_of_the_sample_known(tabulate_updates: Any) -> None:
    new = torch.tensor([[500.0, 500.0], [0.0, 0.0]], dtype=torch.float64)
    update = PolicyUpdate(torch.ones(2, 2), new, torch.zeros(2, 2))
    found = policy.compute_ratios(tabulate_updates(update))
    assert found["rldk/policy/ess"] == pytest.approx(0.5)
    assert found["rldk/policy/ess_sequence"] == pytest.approx(0.5)
    assert found["rldk/policy/ratio_mean"] == pytest.approx(math.exp(500) / 2)
    far = policy.compute_ratios(tabulate_updates(PolicyUpdate(torch.ones(2, 2), new * 2, torch.zeros(2, 2))))
    assert far["rldk/policy/ess"] == pytest.approx(0.5)
    assert not {"rldk/policy/ratio_mean", "rldk/policy/ratio_max"} & set(far)


def test_a_row_without_a_number_counts_nowhere(tabulate_updates: Any) -> None:
    old = torch.full((2, 2), -1.0)
    new = torch.tensor([[-0.5, -0.5], [math.nan, -1.0]])
    update = PolicyUpdate(torch.ones(2, 2), new, old, torch.ones(2), clip_low=0.2, clip_high=0.2)
    found = policy.compute_ratios(tabulate_updates(update))
    assert found["rldk/policy/clip_fraction"] == 1.0
    assert found["rldk/policy/ratio_max"] == pytest.approx(math.exp(0.5))
    assert found["rldk/policy/ess"] == pytest.approx(1.0)


def test_an_advantage_without_a_number_is_neither_clipped_nor_not(tabulate_updates: Any) -> None:
    old = torch.full((3, 2), -1.0)
    new = torch.tensor([[-0.5, -1.0], [-0.5, -0.5], [-1.5, -1.0]])
    update = PolicyUpdate(torch.ones(3, 2), new, old, clip_low=0.2, clip_high=0.2)
    by_row = replace(update, advantages=torch.tensor([1.0, math.nan, -1.0]))
    by_token = replace(update, advantages=torch.tensor([[1.0, 1.0], [1.0, math.nan], [-1.0, -1.0]]))
    for part in (by_row, by_token):
        found = policy.compute_ratios(tabulate_updates(part))
        assert found["rldk/policy/clip_fraction_low"] == found["rldk/policy/clip_fraction_high"] == 0.25
    hidden = replace(by_token, mask=torch.tensor([[1, 1], [1, 0], [1, 1]]))
    found = policy.compute_ratios(tabulate_updates(hidden))
    assert (found["rldk/policy/clip_fraction_low"], found["rldk/policy/clip_fraction_high"]) == (0.2, 0.4)


@pytest.mark.parametrize("sequence_level", [False, True])
def test_no_clip_range_counts_what_is_masked(tabulate_updates: Any, sequence_level: bool) -> None:
    """CISPO's limit of the ratio may lie below 1, even at 0, where every ratio is above it."""
    mask, logs = torch.tensor([[1, 0, 0], [1, 0, 0], [0, 0, 0]]), torch.tensor([[-3.0, 0, 0], [0.0, 0, 0], [0, 0, 0]])
    update = PolicyUpdate(mask, logs, torch.zeros(3, 3), torch.ones(3), sequence_level=sequence_level)
    for high, expected in ((-0.8, 0.5), (-1.0, 1.0), (-2.0, 1.0)):
        found = policy.compute_ratios(tabulate_updates(replace(update, clip_high=high)))
        assert found["rldk/policy/clip_fraction_high"] == expected
    for low, expected in ((0.2, 0.5), (0.99, 0.0), (1.0, 0.0)):
        found = policy.compute_ratios(tabulate_updates(replace(update, advantages=-torch.ones(3), clip_low=low)))
        assert found["rldk/policy/clip_fraction_low"] == expected


def test_a_completion_that_became_impossible_counts_with_a_ratio_of_0(tabulate_updates: Any) -> None:
    new = torch.tensor([[-math.inf, -math.inf], [-1.0, -1.0]])
    found = policy.compute_ratios(tabulate_updates(PolicyUpdate(torch.ones(2, 2), new, torch.full((2, 2), -1.0))))
    assert found["rldk/policy/ratio_mean"] == pytest.approx(0.5)
    assert found["rldk/policy/ess"] == pytest.approx(0.5)
    assert found["rldk/policy/ratio_max"] == pytest.approx(1.0)


def test_an_infinite_ratio_leaves_its_keys_out_without_a_warning(tabulate_updates: Any) -> None:
    old = torch.tensor([[-math.inf, -1.0], [-1.0, -1.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = policy.compute_ratios(tabulate_updates(PolicyUpdate(torch.ones(2, 2), torch.full((2, 2), -1.0), old)))
    assert found == {}


def test_an_empty_completion_counts_as_one_of_ratio_1(tabulate_updates: Any) -> None:
    mask = torch.tensor([[1, 1], [0, 0], [0, 0]])
    update = PolicyUpdate(mask, torch.tensor([[0.5, 0.5]] * 3), torch.zeros(3, 2))
    weights = [math.exp(1.0), 1.0, 1.0]
    found = policy.compute_ratios(tabulate_updates(update))
    assert found["rldk/policy/ess_sequence"] == pytest.approx(sample_size(weights))
    hidden = replace(update, excluded=torch.tensor([False, True, False]))
    found = policy.compute_ratios(tabulate_updates(hidden))
    assert found["rldk/policy/ess_sequence"] == pytest.approx(sample_size(weights[:2]))
