"""Parts of the score; what is not known is not there."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from rldk_tracking.checkpoint.report import text
from rldk_tracking.checkpoint.scan import scan
from rldk_tracking.checkpoint.score import (
    WORSE,
    Best,
    best_by,
    best_of_trainer,
    between_saves,
    is_usable,
    norm_ratios,
    parts,
    score,
    trend,
    verdict,
)


def test_parts_that_are_known(saved: Any) -> None:
    first, second = saved.pair(by=0.2)
    assert set(parts(scan(first, level="light"))) == {"intact", "complete"}
    assert set(parts(scan(first))) == {"intact", "complete", "finite"}
    known = parts(scan(second, {"previous": first}))
    assert set(known) == {"intact", "complete", "finite", "similar", "balanced"}
    a, b = load_file(second / "model.safetensors"), load_file(first / "model.safetensors")
    flat = [torch.cat([content[name].double().flatten() for name in a if content[name].ndim > 1]) for content in (a, b)]
    assert known["similar"] == pytest.approx(torch.nn.functional.cosine_similarity(*flat, dim=0).item(), abs=1e-5)


def test_no_part_no_score() -> None:
    assert score({}) is None
    assert score({"a": 0.5, "b": 0.7}) == 0.5


def test_layers_that_were_zero_have_no_ratio(tmp_path: Path) -> None:
    for name, value in (("a", 0.0), ("b", 1.0)):
        (tmp_path / name).mkdir()
        content = {"x.0.w": torch.full((5,), value), "x.1.w": torch.full((5,), 2.0 + value)}
        save_file(content, tmp_path / name / "model.safetensors")
    assert norm_ratios(scan(tmp_path / "b", {"previous": tmp_path / "a"}), "previous") == {"x.1": pytest.approx(1.5)}


def test_what_was_not_read_is_not_healthy(saved: Any, tmp_path: Path) -> None:
    first, _ = saved.pair()
    assert verdict(scan(first, level="light")) == "unknown" and not is_usable(scan(first, level="light"))
    assert "not read: the weights themselves" in text(scan(first, level="light"))
    (first / "optimizer.pt").unlink()
    assert verdict(scan(first, level="light")) == "warning"
    empty = saved.write(tmp_path / "empty", {})
    assert verdict(scan(empty)) == "unknown"
    strange = saved.write(
        tmp_path / "strange", {"a.weight": torch.ones(3), "b.weight": torch.ones(3, dtype=torch.uint8)}
    )
    file = strange / "model.safetensors"
    file.write_bytes(file.read_bytes().replace(b'"U8"', b'"F4"'))
    found = scan(strange)
    assert (verdict(found), found.unread) == ("unknown", ["b.weight"]) and "finite" not in parts(found)
    assert "not read: 1 tensors of the types F4" in text(found)


def test_verdicts(saved: Any) -> None:
    first, second = saved.pair()
    assert verdict(scan(second, {"previous": first})) == "healthy"
    assert verdict(scan(first, {"previous": first})) == "warning"
    (second / "model.safetensors").write_bytes(b"x" * 100)
    assert verdict(scan(second)) == "critical"


@pytest.mark.parametrize(
    ("scores", "worse_since", "keep"),
    [
        ([1.0], None, (0,)),
        ([0.9, 1.0, 1.0], None, (2,)),
        ([0.9, 1.0, 0.5, 0.4], 2, (1, 3)),
        ([1.0, 0.5, 0.98], None, (2,)),
        ([1.0, 0.95, 0.2], 2, (1, 2)),
    ],
)
def test_without_a_measure_none_is_the_best(
    scores: list[float], worse_since: int | None, keep: tuple[int, ...]
) -> None:
    found = trend(dict(enumerate(scores)), range(len(scores)))
    assert found is not None
    assert (found.best, found.by, found.worse_since, found.keep) == (None, None, worse_since, keep)
    assert found.latest == len(scores) - 1


def test_what_cannot_be_used_is_not_kept() -> None:
    """NaN from step 2 on; the one before lacks its optimizer."""
    found = trend({1: 1.0, 2: 0.5, 3: 0.0, 4: 0.0}, {1})
    assert found is not None and (found.keep, found.latest) == ((1,), 4)
    nothing = trend({1: 0.0, 2: 0.0}, set())
    assert nothing is not None and nothing.keep == ()


def test_the_best_is_kept_if_it_can_be_used() -> None:
    scores = {1: 1.0, 2: 0.99, 3: 0.99}
    found = trend(scores, scores, Best(2, "reward 0.5"))
    assert found is not None and (found.best, found.by, found.keep) == (2, "reward 0.5", (2, 3))
    broken = trend(scores, {1, 3}, Best(2, "reward 0.5"))
    assert broken is not None and (broken.best, broken.by, broken.keep) == (None, None, (3,))


@given(st.dictionaries(st.integers(0, 1000), st.floats(0, 1), min_size=1), st.sets(st.integers(0, 1000)))
def test_keeps_what_it_should(scores: dict[int, float], usable: set[int]) -> None:
    found = trend(scores, usable)
    assert found is not None
    assert set(found.keep) <= usable & set(scores)
    assert not usable & set(scores) or max(usable & set(scores)) in found.keep
    if found.worse_since is not None:
        highest = max(value for step, value in scores.items() if step < found.worse_since)
        assert all(value < highest - WORSE for step, value in scores.items() if step >= found.worse_since)


def test_no_score_no_trend() -> None:
    assert trend({}, ()) is None


def test_best_by_a_series() -> None:
    assert best_by("reward", {1: 0.2, 2: 0.7, 3: 0.7}, {1, 2, 3}) == Best(3, "reward 0.7")
    assert best_by("reward", {1: 0.2, 2: 0.7, 3: 0.9}, {1, 2}) == Best(2, "reward 0.7")
    assert best_by("reward", {1: 0.2, 2: math.nan}, {1, 2}) is None, "one of one is none"


@pytest.mark.parametrize(
    ("state", "best"),
    [
        ({"best_metric": 0.5, "best_global_step": 20}, Best(20, "the trainer's best_metric 0.5")),
        ({"best_metric": 0.5, "best_model_checkpoint": "out/checkpoint-20"}, Best(20, "the trainer's best_metric 0.5")),
        ({"best_metric": 0.5, "best_global_step": 30}, None),
        ({"best_metric": None, "best_global_step": None, "best_model_checkpoint": None}, None),
        ({"best_metric": "high", "best_global_step": 20}, None),
        ({"best_metric": math.nan, "best_global_step": 20}, None),
        ({"best_metric": 1, "best_model_checkpoint": ["?"]}, None),
        ({}, None),
    ],
)
def test_best_of_the_trainer(state: dict[str, object], best: Best | None) -> None:
    assert best_of_trainer(state, {10, 20}) == best


def test_means_between_saves() -> None:
    rows = [(1, 0.0), (2, 1.0), (3, 3.0), (4, 5.0), (5, 100.0)]
    assert between_saves(rows, [4, 2]) == {2: 0.5, 4: 4.0}
    assert between_saves(rows, [2, 9]) == {2: 0.5, 9: 36.0}
    assert between_saves([], [2]) == {}
