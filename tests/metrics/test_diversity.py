from __future__ import annotations

import itertools
import math
import statistics
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rldk_tracking.metrics import diversity
from rldk_tracking.rollout import Rollout

Tokens = list[float]


def n_grams(tokens: Tokens, n: int) -> list[tuple[float, ...]]:
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def longest_repeated(tokens: Tokens) -> int:
    return next((n for n in range(len(tokens), 0, -1) if len(set(n_grams(tokens, n))) < len(n_grams(tokens, n))), 0)


def overlaps(completions: list[Tokens], group_ids: list[int]) -> list[float]:
    """Mean Jaccard similarity of the pairs of each group, exactly."""
    groups: dict[int, list[set[Any]]] = {}
    for tokens, name in zip(completions, group_ids, strict=True):
        if len(tokens) > 1:
            groups.setdefault(name, []).append(set(n_grams(tokens, 2)))
    pairs = [list(itertools.combinations(sets, 2)) for sets in groups.values() if len(sets) > 1]
    return [statistics.fmean(len(a & b) / len(a | b) for a, b in group) for group in pairs]


def oracle(rollout: Rollout, tokens_of: Any) -> dict[str, float]:
    completions = [row for row in tokens_of(rollout.token_ids, rollout.mask) if row]
    if not completions:
        return {}
    expected = {
        "rldk/diversity/unique_fraction": len({tuple(row) for row in completions}) / len(completions),
        "rldk/diversity/distinct_1": statistics.fmean(len(set(row)) / len(row) for row in completions),
        "rldk/diversity/repetition": statistics.fmean(longest_repeated(row) / len(row) for row in completions),
    }
    bigrams = [n_grams(row, 2) for row in completions if len(row) > 1]
    if bigrams:
        expected["rldk/diversity/distinct_2"] = statistics.fmean(len(set(row)) / len(row) for row in bigrams)
    return expected


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_equals_plain_loops(data: st.DataObject, a_rollout: Any, tabulate: Any, same: Any, tokens_of: Any) -> None:
    rollout = data.draw(a_rollout(max_tokens=20))
    found = diversity.compute(tabulate(rollout))
    overlap = found.pop("rldk/diversity/within_group_overlap", None)
    same(found, oracle(rollout, tokens_of), 1e-12)
    exact = overlaps(tokens_of(rollout.token_ids, rollout.mask), rollout.group_ids.tolist())
    assert (overlap is None) == (not exact)
    if overlap is not None and set(exact) <= {0.0, 1.0}:
        assert overlap == pytest.approx(statistics.fmean(exact))


def test_overlap_is_unbiased(tabulate: Any, tokens_of: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    errors, exact = [], []
    for trial in range(60):
        vocabulary = (3, 6, 12)[trial % 3]
        tokens = torch.randint(0, vocabulary, (8, 30), generator=generator) + 1000 * trial
        lengths = torch.randint(2, 31, (8, 1), generator=generator)
        rollout = Rollout(torch.arange(30)[None] < lengths, token_ids=tokens, group_ids=torch.arange(8) // 4)
        truth = statistics.fmean(overlaps(tokens_of(rollout.token_ids, rollout.mask), rollout.group_ids.tolist()))
        errors.append(diversity.compute(tabulate(rollout))["rldk/diversity/within_group_overlap"] - truth)
        exact.append(truth)
    assert max(exact) - min(exact) > 0.4
    standard_error = statistics.stdev(errors) / math.sqrt(len(errors))
    assert abs(statistics.fmean(errors)) < 3 * standard_error
    assert statistics.stdev(errors) < 0.08


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [([7, 7, 7, 7], 3 / 4), ([1, 2, 3, 1, 2, 3, 4], 3 / 7), ([1, 2, 3], 0.0), ([5], 0.0), ([1, 2, 1], 1 / 3)],
)
def test_repetition(tabulate: Any, tokens: list[int], expected: float) -> None:
    rollout = Rollout(torch.ones(1, len(tokens)), token_ids=torch.tensor([tokens]))
    assert diversity.compute(tabulate(rollout))["rldk/diversity/repetition"] == pytest.approx(expected)


def test_padding_and_holes_are_not_text(tabulate: Any) -> None:
    tokens = torch.tensor([[-100, 4, 5, 9, 6], [4, 5, 6, -100, -100], [4, 5, 0, 6, 0]])
    mask = torch.tensor([[0, 1, 1, 0, 1], [1, 1, 1, 0, 0], [1, 1, 0, 1, 0]])
    found = diversity.compute(tabulate(Rollout(mask, token_ids=tokens, group_ids=torch.zeros(3, dtype=torch.int64))))
    assert found["rldk/diversity/unique_fraction"] == pytest.approx(1 / 3)
    assert found["rldk/diversity/within_group_overlap"] == 1.0
    assert found["rldk/diversity/repetition"] == 0.0


def test_a_prefix_or_another_order_is_another_completion(tabulate: Any) -> None:
    tokens = torch.tensor([[1, 2, 0], [2, 1, 0], [1, 2, 0], [0, 1, 2]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 0], [1, 1, 1], [1, 1, 1]])
    assert diversity.compute(tabulate(Rollout(mask, token_ids=tokens)))["rldk/diversity/unique_fraction"] == 1.0


def test_hashes_are_exact_in_single_precision(tabulate: Any) -> None:
    tokens = torch.randint(0, 50_000, (200, 12), generator=torch.Generator().manual_seed(0))
    found = diversity.columns(Rollout(torch.ones(200, 12), token_ids=tokens))
    for name in ("diversity/hash_high", "diversity/hash_low", *diversity.SIGNATURE):
        assert torch.equal(found[name], found[name].float().double())
    assert len({*zip(found["diversity/hash_high"].tolist(), found["diversity/hash_low"].tolist(), strict=True)}) == 200
    assert diversity.compute(tabulate(Rollout(torch.ones(200, 12)))) == {}
