"""Parts of the score; what is not known is not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rldk_tracking.checkpoint.report import text
from rldk_tracking.checkpoint.scan import scan
from rldk_tracking.checkpoint.score import is_usable, norm_ratios, parts, score, verdict


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
