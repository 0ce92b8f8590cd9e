"""Diversity against plain loops."""

from __future__ import annotations

import itertools
import math
import statistics
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rldk_tracking.metrics import diversity
from rldk_tracking.metrics.columns import Table
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


def diversity_oracle(rollout: Rollout, tokens_of: Any) -> dict[str, float]:
    everything = tokens_of(rollout.token_ids, rollout.mask)
    if not everything:
        return {}
    expected = {"rldk/diversity/unique_fraction": len({tuple(row) for row in everything}) / len(everything)}
    completions = [row for row in everything if row]
    if not completions:
        return expected
    expected |= {
        "rldk/diversity/distinct_1": statistics.fmean(len(set(row)) / len(row) for row in completions),
        "rldk/diversity/repetition": statistics.fmean(longest_repeated(row) / len(row) for row in completions),
    }
    bigrams = [n_grams(row, 2) for row in completions if len(row) > 1]
    if bigrams:
        expected["rldk/diversity/distinct_2"] = statistics.fmean(len(set(row)) / len(row) for row in bigrams)
    return expected


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_diversity_equals_plain_loops(
    data: st.DataObject, a_rollout: Any, tabulate: Any, same: Any, tokens_of: Any
) -> None:
    rollout = data.draw(a_rollout(max_tokens=20))
    found = diversity.compute(tabulate(rollout))
    overlap = found.pop("rldk/diversity/within_group_overlap", None)
    same(found, diversity_oracle(rollout, tokens_of), 1e-12)
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


def test_empty_completions_are_completions_and_all_the_same(tabulate: Any) -> None:
    """Half of them empty is the collapse that the key is to show, not a batch in which all differ."""
    tokens, mask = torch.arange(32).reshape(16, 2), torch.ones(16, 2)
    mask[::2] = 0
    found = diversity.compute(tabulate(Rollout(mask, token_ids=tokens)))
    assert found["rldk/diversity/unique_fraction"] == 9 / 16
    assert found["rldk/diversity/distinct_1"] == 1.0


def test_a_prefix_or_another_order_is_another_completion(tabulate: Any) -> None:
    tokens = torch.tensor([[1, 2, 0], [2, 1, 0], [1, 2, 0], [0, 1, 2]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 0], [1, 1, 1], [1, 1, 1]])
    assert diversity.compute(tabulate(Rollout(mask, token_ids=tokens)))["rldk/diversity/unique_fraction"] == 1.0


def test_hashes_are_exact_in_single_precision(tabulate: Any) -> None:
    tokens = torch.randint(0, 50_000, (200, 12), generator=torch.Generator().manual_seed(0))
    found = diversity.columns(Rollout(torch.ones(200, 12), token_ids=tokens))
    for column in found.values():
        assert torch.equal(column, column.float().double())
    assert len({*zip(*(found[name].tolist() for name in diversity.IDENTITY), strict=True)}) == 200
    assert diversity.compute(tabulate(Rollout(torch.ones(200, 12)))) == {}


@pytest.mark.parametrize(
    ("one", "other"), [([0], [0, 0]), ([], [0]), ([1, 2], [2, 1]), ([1, 0], [0, 1]), ([3, 1, 0], [3, 1])]
)
def test_the_token_0_is_a_token(tabulate: Any, one: list[int], other: list[int]) -> None:
    mask = torch.tensor([[i < len(row) for i in range(3)] for row in (one, other)])
    tokens = torch.tensor([row + [0] * (3 - len(row)) for row in (one, other)])
    found = diversity.compute(tabulate(Rollout(mask, token_ids=tokens)))
    assert found["rldk/diversity/unique_fraction"] == 1.0


def texts(rows: int, tokens: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Token ids and mask of completions that repeat themselves and each other more or less, in groups of four."""
    generator = torch.Generator().manual_seed(seed)
    vocabulary = 2 + torch.arange(rows)[:, None] // 4 % 9
    ids = torch.randint(0, 2**31 - 1, (rows, tokens), generator=generator) % vocabulary
    return ids, torch.rand(rows, tokens, generator=generator) < 0.9


@pytest.mark.parametrize("tokens", [1, 2, 15, 16, 17, 64, 65, 256, 257])
def test_a_device_that_sorts_by_itself_comes_to_the_same(monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
    ids, mask = texts(8, tokens)
    rollout = Rollout(mask, token_ids=ids)
    on_host = diversity.columns(rollout)
    monkeypatch.setattr(diversity, "_on_host", lambda tensor: False)
    elsewhere = diversity.columns(rollout)
    monkeypatch.setattr(diversity, "LARGEST_PRODUCT", 1)
    in_parts = diversity.columns(rollout)
    for name, column in on_host.items():
        assert torch.equal(column, elsewhere[name])
        assert torch.equal(column, in_parts[name])


def test_a_batch_is_counted_whole_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [diversity.max_rows(tokens) for tokens in (0, 1, 64, 512, 1024, 8192)] == [2**14, 2**14, 256, 32, 16, 16]
    ids, mask = texts(17, 1024)
    columns = diversity.columns(Rollout(mask, token_ids=ids))
    assert [int(columns[name].isnan().sum()) for name in diversity.COLUMNS] == [0] * 2 + [1] * 19
    columns = diversity.columns(Rollout(mask[:16], token_ids=ids[:16]))
    assert not any(column.isnan().any() for column in columns.values())


def test_the_subsample_is_of_whole_groups_and_has_their_numbers() -> None:
    ids, mask = texts(48, 1024)
    shuffled = torch.randperm(48, generator=torch.Generator().manual_seed(1))
    groups = (torch.arange(48) // 4)[shuffled]
    columns = diversity.columns(Rollout(mask, token_ids=ids, group_ids=groups))
    counted = ~columns["diversity/repeats_1"].isnan()
    assert sorted(groups[counted].bincount(minlength=12).tolist()) == [0] * 8 + [4] * 4
    assert set(groups[counted].tolist()) not in ({0, 1, 2, 3}, {8, 9, 10, 11}), "neighbours may be alike"
    alone = diversity.columns(Rollout(mask[counted], token_ids=ids[counted]))
    for name, column in columns.items():
        assert torch.equal(column[counted], alone[name])


SAMPLED_KEYS = [f"rldk/diversity/{name}" for name in ("distinct_1", "distinct_2", "repetition", "within_group_overlap")]


@pytest.mark.parametrize("size", [1, 4, 5])
def test_a_subsample_is_unbiased_and_as_far_off_as_documented(
    monkeypatch: pytest.MonkeyPatch, tabulate: Any, size: int
) -> None:
    """Over batches of the same groups in any order. Groups of five do not fit, so that the last one is cut."""
    monkeypatch.setattr(diversity, "MIN_ROWS", 20 if size == 4 else 16)
    monkeypatch.setattr(diversity, "MAX_TOKENS", 0)
    count, generator = 48 // size, torch.Generator().manual_seed(2)
    ids, mask = (tensor.view(count, size, 24) for tensor in texts(count * size, 24))

    def keys(order: Tensor) -> dict[str, float]:
        names = None if size == 1 else torch.arange(len(order)).repeat_interleave(size)
        rollout = Rollout(mask[order].flatten(0, 1), token_ids=ids[order].flatten(0, 1), group_ids=names)
        return diversity.compute(tabulate(rollout))

    own = [keys(torch.tensor([group])) for group in range(count)]
    found = [keys(torch.randperm(count, generator=generator)) for _ in range(400)]
    share = diversity.MIN_ROWS / size / count
    assert {row["rldk/diversity/unique_fraction"] for row in found} == {found[0]["rldk/diversity/unique_fraction"]}
    for key in SAMPLED_KEYS[: 3 if size == 1 else 4]:
        truth = statistics.fmean(group[key] for group in own)
        spread = statistics.stdev(group[key] for group in own)
        documented = math.sqrt((1 - share) / (share * count)) * spread
        observed = statistics.stdev(row[key] for row in found)
        assert abs(statistics.fmean(row[key] for row in found) - truth) < 4 * observed / math.sqrt(len(found)), key
        if diversity.MIN_ROWS % size == 0:
            assert observed == pytest.approx(documented, rel=0.12), key


def test_a_rank_without_token_ids_leaves_the_others_theirs(tabulate: Any) -> None:
    table = tabulate(Rollout(torch.ones(3, 2), token_ids=torch.tensor([[1, 1], [1, 1], [2, 3]])))
    unknown = {name: np.append(column, [np.nan] * 2) for name, column in table.columns.items()}
    found = diversity.compute(Table({**unknown, "length/tokens": np.full(5, 2.0)}))
    assert found == diversity.compute(table)
    assert found["rldk/diversity/unique_fraction"] == pytest.approx(2 / 3)


def test_no_pair_of_padding_is_a_bigram(tabulate: Any) -> None:
    tokens = torch.arange(500)[None] * torch.tensor([[1], [257]])
    mask = torch.arange(500)[None] < torch.tensor([[2], [250]])
    tokens[0, :2] = torch.tensor([1, 258])
    found = diversity.compute(tabulate(Rollout(mask, token_ids=tokens)))
    assert found["rldk/diversity/distinct_2"] == 1.0
