"""Lengths against plain loops."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rldk_tracking.metrics import length
from rldk_tracking.metrics.columns import Table
from rldk_tracking.rollout import Rollout


def length_oracle(rollout: Rollout) -> dict[str, float]:
    lengths = [sum(bool(flag) for flag in row) for row in rollout.mask.tolist()]
    if not lengths:
        return {}
    truncated = rollout.truncated.tolist()
    expected = {
        "rldk/length/mean": statistics.fmean(lengths),
        "rldk/length/min": min(lengths),
        "rldk/length/max": max(lengths),
        "rldk/length/p95": float(np.percentile(lengths, 95)),
        "rldk/length/truncated_fraction": sum(truncated) / len(truncated),
        "rldk/length/eos_fraction": sum(not cut for cut in truncated) / len(truncated),
    }
    if len(lengths) > 1:
        expected["rldk/length/std"] = statistics.stdev(lengths)
    ended = [n for n, cut in zip(lengths, truncated, strict=True) if not cut]
    if ended:
        expected["rldk/length/terminated_mean"] = statistics.fmean(ended)
    return expected


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_lengths_equal_plain_loops(data: st.DataObject, a_rollout: Any, tabulate: Any, same: Any) -> None:
    rollout = data.draw(a_rollout())
    same(length.compute(tabulate(rollout)), length_oracle(rollout))


def test_one_completion_has_no_spread(tabulate: Any) -> None:
    assert "rldk/length/std" not in length.compute(tabulate(Rollout(torch.ones(1, 3))))


def test_how_completions_end_is_unknown_without_the_finish_reason(tabulate: Any) -> None:
    found = length.compute(tabulate(Rollout(torch.ones(2, 3))))
    assert set(found) == {f"rldk/length/{name}" for name in ("mean", "std", "min", "max", "p95")}
    assert found["rldk/length/std"] == 0.0


def test_no_terminated_length_where_all_are_cut_off(tabulate: Any) -> None:
    found = length.compute(tabulate(Rollout(torch.ones(2, 3), truncated=torch.ones(2, dtype=torch.bool))))
    assert "rldk/length/terminated_mean" not in found
    assert found["rldk/length/eos_fraction"] == 0.0


def test_a_rank_that_does_not_know_how_its_completions_end_leaves_the_others_theirs() -> None:
    columns = {"length/tokens": np.array([5.0, 2.0, 9.0]), "length/truncated": np.array([0.0, 1.0, np.nan])}
    found = length.compute(Table(columns))
    assert found["rldk/length/truncated_fraction"] == found["rldk/length/eos_fraction"] == 0.5
    assert found["rldk/length/terminated_mean"] == 5.0
