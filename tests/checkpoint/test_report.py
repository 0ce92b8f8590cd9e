"""What people read: the table and the text."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rldk_tracking.checkpoint.report import LAYER_COLUMNS, layer_rows, metrics, text
from rldk_tracking.checkpoint.scan import scan
from rldk_tracking.health.engine import Engine
from rldk_tracking.health.presets import rules_for


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


def spoil(path: Path, names: str) -> None:
    """NaN in every element of the tensors whose names hold a word."""
    content = load_file(path / "model.safetensors")
    save_file({n: v.fill_(math.nan) if names in n else v for n, v in content.items()}, path / "model.safetensors")


def test_weights_that_have_become_nan_are_not_unchanged(saved: Any) -> None:
    """Every tensor differs: no element is finite in both, and so no distance is known."""
    first, second = saved.pair()
    spoil(second, "")
    found = scan(second, {"previous": first, "first": first})
    assert found.unchanged("previous") is False
    shown = text(found)
    assert "nothing was learnt" not in shown and "every tensor" not in shown and "norm 0" not in shown
    assert "no distance from previous: 46848 elements are not finite" in shown
    row = metrics(found)
    assert row["rldk/checkpoint/unchanged"] == 0.0 and row["rldk/checkpoint/still_layers"] == 0.0
    assert row["rldk/checkpoint/nonfinite"] == 6.0
    said = [key for key in row if any(word in key for word in ("drift", "cosine", "norm", "similar", "balanced"))]
    assert said == []
    engine = Engine(rules_for("safe", {}), context={})
    assert [alert.rule for alert in engine.update(20, row)] == ["checkpoint.nonfinite"]


def test_nan_before_and_after_is_unchanged_and_nothing_is_learnt_from_it(saved: Any) -> None:
    first, second = saved.pair()
    for path in (first, second):
        spoil(path, "")
    found = scan(second, {"previous": first})
    assert found.unchanged("previous") is True
    shown = text(found)
    assert "every tensor is that of previous" in shown and "nothing was learnt" not in shown
    assert "rldk/checkpoint/unchanged" not in metrics(found), "it would be NaN whatever was learnt"


def test_one_nan_leaves_its_layer_and_the_whole_without_a_distance(saved: Any) -> None:
    first, second = saved.pair()
    content = load_file(second / "model.safetensors")
    content["model.layers.1.q_proj.weight"][3, 4] = math.nan
    save_file(content, second / "model.safetensors")
    found = scan(second, {"previous": first})
    rows = {row[0]: dict(zip(LAYER_COLUMNS, row, strict=True)) for row in layer_rows(found)}
    broken, whole = rows["model.layers.1"], rows["model.layers.0"]
    assert broken["not finite"] == 1.0
    assert [name for name in ("norm", "largest", "drift", "cosine", "norm ratio") if broken[name] is not None] == []
    assert whole["drift"] == pytest.approx(1e-3, rel=1e-2)
    row = metrics(found)
    assert "rldk/checkpoint/norm" not in row and "rldk/checkpoint/drift_previous" not in row
    assert row["rldk/checkpoint/layer_drift/p50"] == pytest.approx(1e-3, rel=1e-2), "of the layers that are finite"


def test_nothing_in_common_is_said(saved: Any, tmp_path: Path) -> None:
    first, _ = saved.pair()
    other = saved.write(tmp_path / "other", {"a.weight": torch.ones(4, 4)})
    assert "no tensor in common with reference" in text(scan(first, {"reference": other}))


def test_names_cannot_write_a_verdict_on_the_terminal(tmp_path: Path) -> None:
    name = "h.0\n  verdict: healthy\x1b]0;fine\x07\x1b[2K"
    for step in (1, 2):
        (tmp_path / f"checkpoint-{step}").mkdir()
        save_file(
            {name: torch.full((4,), math.nan if step == 2 else 1.0)},
            tmp_path / f"checkpoint-{step}" / "model.safetensors",
        )
    found = scan(tmp_path / "checkpoint-2", {"previous": tmp_path / "checkpoint-1"})
    shown = text(found)
    assert "\x1b" not in shown and "\x07" not in shown
    assert [line for line in shown.splitlines() if line.strip().startswith("verdict")] == []
    assert "h.0\\n  verdict: healthy" in shown
