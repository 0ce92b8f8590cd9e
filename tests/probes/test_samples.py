from __future__ import annotations

import math

import pytest
import torch

from rldk_tracking.probes.samples import COLUMNS, SampleTable, extremes
from rldk_tracking.rollout import Rollout
from tests.probes.conftest import Published


def rollout(scores: list[float], has_prompts: bool = True) -> Rollout:
    rows = len(scores)
    return Rollout(
        mask=torch.arange(3) < torch.arange(1, rows + 1).unsqueeze(1),
        scores=torch.tensor(scores),
        prompts=tuple(f"p{i}" for i in range(rows)) if has_prompts else None,
        completions=tuple(f"c{i}" for i in range(rows)),
        truncated=torch.arange(rows) % 2 == 1,
    )


def named(rows: list[list[object]]) -> list[dict[str, object]]:
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows]


def test_both_ends_of_the_scores_and_nothing_twice() -> None:
    rows = named(extremes(rollout([0.5, 3.0, -1.0, 2.0, math.nan]), 2, 7))
    assert [(row["rank"], row["completion"]) for row in rows] == [
        ("highest", "c1"),
        ("highest", "c3"),
        ("lowest", "c0"),
        ("lowest", "c2"),
    ]
    assert {row["step"] for row in rows} == {7}


def test_each_row_tells_of_its_own_completion() -> None:
    first, second = named(extremes(rollout([1.0, 2.0]), 1, 1))
    assert (first["prompt"], first["score"], first["length"], first["truncated"]) == ("p1", 2.0, 2, True)
    assert (second["prompt"], second["score"], second["length"], second["truncated"]) == ("p0", 1.0, 1, False)
    assert named(extremes(rollout([1.0], has_prompts=False), 1, 1))[0]["prompt"] == ""


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


def test_a_table_comes_now_and_then(published: Published) -> None:
    table = SampleTable(count=1, interval=10)
    table.offer(published, None, 1)
    table.offer(published, rollout([math.nan]), 2)
    for step in range(3, 30):
        table.offer(published, rollout([1.0, 2.0]), step)
    shown = published.of("log_table", SampleTable.key)
    assert [step for *_, step in shown] == [3, 13, 23], "the first that has something to show"
    columns, rows, _ = shown[0]
    assert columns == COLUMNS and [row[6] for row in rows] == ["c1", "c0"]
