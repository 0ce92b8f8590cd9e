"""What people read: the table, the text, the trend."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from rldk_tracking.checkpoint.report import LAYER_COLUMNS, WORSE, layer_rows, text, trend
from rldk_tracking.checkpoint.scan import scan


def test_the_worst_layer_comes_first(saved: Any) -> None:
    first, second = saved.pair()
    content = load_file(second / "model.safetensors")
    content["model.layers.0.q_proj.weight"] *= 3
    content["model.layers.1.norm.weight"][0] = math.inf
    save_file(content, second / "model.safetensors")
    rows = layer_rows(scan(second, {"previous": first}))
    assert [row[0] for row in rows[:2]] == ["model.layers.1", "model.layers.0"]
    assert all(len(row) == len(LAYER_COLUMNS) for row in rows)
    named = dict(zip(LAYER_COLUMNS, rows[1], strict=True))
    assert named["norm ratio"] == pytest.approx(1.45, rel=0.01)  # of the layer's norm, of which gains of 1 are a part
    assert len(layer_rows(scan(second), limit=1)) == 1


def test_the_text_says_what_is_wrong(saved: Any) -> None:
    first, second = saved.pair()
    for name in ("optimizer.pt", "scheduler.pt"):
        (second / name).unlink()
    told = text(scan(second, {"previous": first}))
    assert "optimizer.pt is missing" in told and "scheduler.pt is missing" in told
    assert "0.001 of its norm away from previous" in told
    told = text(scan(first, {"previous": first}))
    assert "nothing was learnt" in told


@pytest.mark.parametrize(
    ("scores", "best", "worse_since", "keep"),
    [
        ([1.0], 0, None, (0,)),
        ([0.9, 1.0, 1.0], 2, None, (2,)),
        ([0.9, 1.0, 0.5, 0.4], 1, 2, (1, 3)),
        ([1.0, 0.5, 0.98], 0, None, (0, 2)),
        ([1.0, 0.95, 0.2], 0, 2, (0, 1, 2)),
    ],
)
def test_trend(scores: list[float], best: int, worse_since: int | None, keep: tuple[int, ...]) -> None:
    told = trend(dict(enumerate(scores)))
    assert told is not None
    assert (told.best, told.worse_since, told.keep) == (best, worse_since, keep)


@given(st.dictionaries(st.integers(0, 1000), st.floats(0, 1), min_size=1))
def test_trend_keeps_what_it_should(scores: dict[int, float]) -> None:
    told = trend(scores)
    assert told is not None
    assert scores[told.best] == max(scores.values())
    assert {told.best, told.latest} <= set(told.keep) <= set(scores)
    if told.worse_since is not None:
        highest = max(value for step, value in scores.items() if step < told.worse_since)
        assert all(value < highest - WORSE for step, value in scores.items() if step >= told.worse_since)


def test_no_score_no_trend() -> None:
    assert trend({}) is None
