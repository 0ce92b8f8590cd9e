from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rldk_tracking.metrics.columns import (
    Table,
    Tail,
    finite,
    highest,
    masked_sum,
    merge_tails,
    precise,
    tail_length,
    tail_of,
    where_masked,
)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_sums_and_maxima_ignore_what_is_masked(data: st.DataObject, a_rollout: Any, tokens_of: Any) -> None:
    rollout = data.draw(a_rollout())
    rows = tokens_of(rollout.logprobs, rollout.mask)
    assert masked_sum(rollout.logprobs, rollout.mask).tolist() == pytest.approx([math.fsum(row) for row in rows])
    found = highest(where_masked(rollout.logprobs, rollout.mask, -math.inf)).tolist()
    assert found == [max(row, default=-math.inf) for row in rows]


def test_double_precision_where_the_device_has_it() -> None:
    assert precise(torch.ones(1, dtype=torch.bfloat16)).dtype == torch.float64
    assert precise(torch.ones(1, dtype=torch.bool)).dtype == torch.float64


NAN = math.nan


def test_a_column_without_a_number_is_not_there() -> None:
    table = Table({"a": np.array([NAN, NAN]), "b": np.array([NAN, 2.0])})
    assert table.get("a") is table.get("d") is None
    assert Table({"a": np.empty(0)}).get("a") is Table({}).get("a") is None
    assert Table({"late": np.array([NAN] * 1000 + [1.0])}).total("late") == 1.0
    assert table.total("a") is None
    assert table.total("b") == 2.0


def test_a_ratio_is_over_the_completions_that_have_both() -> None:
    table = Table({"top": np.array([1.0, NAN, 5.0]), "bottom": np.array([2.0, 4.0, NAN]), "zero": np.zeros(3)})
    assert table.ratio("top", "bottom") == 0.5
    assert table.ratio("top", "zero") is None
    assert table.ratio("top", "nowhere") is None


def test_an_infinite_sum_is_no_ratio_of_the_rest() -> None:
    table = Table({"top": np.array([1.0, math.inf]), "bottom": np.array([1.0, 1.0])})
    assert table.ratio("top", "bottom") is None


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(0, 30), st.sampled_from([0.0, 5.0]))
def test_tails_of_ranks_give_the_percentile_of_all(seed: int, ranks: int, rows: int, shift: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    kept, counts, everything = [], [], []
    for rank in range(ranks):
        values = torch.randn(rows, 20, generator=generator) + shift * rank
        mask = torch.rand(rows, 20, generator=generator) > 0.3
        everything.append(values[mask].double())
        kept.append(tail_of(values, mask, 2048))
        counts.append(int(mask.sum()))
    flat = torch.cat(everything).numpy()
    found = merge_tails(torch.stack(kept).numpy(), np.array(counts)).quantile(0.99)
    assert found == pytest.approx(float(np.quantile(flat, 0.99)) if len(flat) else None)


def test_alone_a_rank_keeps_just_what_the_percentile_needs() -> None:
    values = torch.randn(50, 400, generator=torch.Generator().manual_seed(0))
    kept = tail_of(values, torch.ones(50, 400))
    assert len(kept) == tail_length(20_000) == 202
    tail = merge_tails(kept[None].numpy(), np.array([20_000]))
    assert tail.quantile(0.99) == pytest.approx(float(np.quantile(values.double(), 0.99)))
    assert tail.quantile(0.995) == pytest.approx(float(np.quantile(values.double(), 0.995)))
    assert tail.quantile(0.9) is None


def test_what_a_rank_kept_back_makes_a_percentile_unknown_instead_of_wrong() -> None:
    """All large values lie on the first rank, which had no room for them all."""
    high, low = torch.full((1, 1000), 1.0), torch.zeros(1, 1000)
    kept = torch.stack([tail_of(values, torch.ones(1, 1000), 12) for values in (high, low)]).numpy()
    tail = merge_tails(kept, np.array([1000, 1000]))
    assert tail.quantile(0.99) is None
    assert tail.quantile(0.999) == 1.0


def test_a_token_that_is_not_finite_leaves_what_lies_below_the_sent_values_unknown() -> None:
    kept = np.array([[math.nan, 5.0, 4.0], [3.0, 2.0, -math.inf]])
    tail = merge_tails(kept, np.array([3, 2]))
    assert sorted(tail.values) == [2.0, 3.0, 4.0, 5.0]
    assert (tail.count, tail.floor) == (5, 4.0)
    assert merge_tails(kept[1:], np.array([2])).floor == -math.inf, "this one sent all it had"


def test_no_values_have_no_percentile() -> None:
    assert merge_tails(np.empty((0, 4)), np.empty(0, dtype=np.int64)).quantile(0.99) is None
    assert Tail(np.empty(0), 0).quantile(0.5) is None
    assert len(tail_of(torch.zeros(0, 5), torch.zeros(0, 5))) == 0
    nothing = tail_of(torch.zeros(2, 3), torch.zeros(2, 3))
    assert merge_tails(nothing[None].numpy(), np.array([0])).quantile(0.99) is None


def test_what_is_no_number_is_left_out() -> None:
    whole = {"a": 1.0, "b": math.nan, "c": math.inf, "d": -math.inf, "e": 0.0, "f": None}
    assert finite(whole) == {"a": 1.0, "e": 0.0}
