from __future__ import annotations

import math

import pytest
import torch

from rldk_tracking.monitors.samples import COLUMNS, extremes
from rldk_tracking.rollout import Rollout


def rollout(scores: list[float]) -> Rollout:
    rows = len(scores)
    return Rollout(
        mask=torch.ones(rows, 3, dtype=torch.bool),
        scores=torch.tensor(scores),
        prompts=tuple(f"p{i}" for i in range(rows)),
        completions=tuple(f"c{i}" for i in range(rows)),
    )


def test_both_ends_of_the_scores_and_nothing_twice() -> None:
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in extremes(rollout([0.5, 3.0, -1.0, 2.0, math.nan]), 2, 7)]
    assert [(row["rank"], row["completion"]) for row in rows] == [
        ("highest", "c1"),
        ("highest", "c3"),
        ("lowest", "c0"),
        ("lowest", "c2"),
    ]
    assert {row["step"] for row in rows} == {7}


def test_a_small_batch_is_listed_once() -> None:
    assert [row[6] for row in extremes(rollout([1.0, 2.0]), 4, 1)] == ["c1", "c0"]


@pytest.mark.parametrize("missing", ["scores", "completions"])
def test_without_texts_or_scores_there_is_no_table(missing: str) -> None:
    full = rollout([1.0, 2.0])
    partial = Rollout(
        mask=full.mask,
        scores=None if missing == "scores" else full.scores,
        completions=None if missing == "completions" else full.completions,
    )
    assert extremes(partial, 2, 1) == []
