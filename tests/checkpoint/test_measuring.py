"""Checkpoints of quantised weights, in which some tensors are no numbers to compute with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rldk_tracking.checkpoint import integrity
from rldk_tracking.checkpoint.measuring import ScanCancelledError
from rldk_tracking.checkpoint.record import from_dict, merge, to_dict
from rldk_tracking.checkpoint.report import metrics
from rldk_tracking.checkpoint.scan import scan
from rldk_tracking.checkpoint.score import verdict


def quantised(saved: Any, folder: Path, shift: int = 0) -> Path:
    """As bitsandbytes saves them: int8 weights with a scale for each row, and one layer in full."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-100, 100, (300, 200), generator=generator, dtype=torch.int8)
    codes[0, 0] += shift
    content = {
        "model.layers.0.q_proj.weight": codes,
        "model.layers.0.q_proj.SCB": torch.rand(300, generator=generator),
        "model.layers.1.q_proj.weight": torch.randn(64, 64, generator=generator),
        "model.layers.1.mask": torch.ones(64, dtype=torch.bool),
    }
    return saved.write(folder, content)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("shift", "unchanged"), [(0, True), (1, False)])
def test_int8_weights(saved: Any, tmp_path: Path, shift: int, unchanged: bool) -> None:
    first = quantised(saved, tmp_path / "checkpoint-10")
    second = quantised(saved, tmp_path / "checkpoint-20", shift)
    found = scan(second, {"previous": first, "first": first}, level="full")
    assert found.problems == []
    assert set(found.entries) - set(found.tensors) == {"model.layers.0.q_proj.weight", "model.layers.1.mask"}
    assert found.drift("previous").distance == 0.0  # type: ignore[union-attr]
    assert found.differing == {"previous": shift, "first": shift}
    assert found.unchanged("previous") is unchanged
    assert metrics(found)["rldk/checkpoint/unchanged"] == float(unchanged)
    assert verdict(found) == ("warning" if unchanged else "healthy")
    stored, values = found.tensors["model.layers.1.q_proj.weight"], load_file(second / "model.safetensors")
    expected = np.linalg.norm(values["model.layers.1.q_proj.weight"].double().numpy(), 2)
    assert stored.spectral_norm == pytest.approx(expected, rel=1e-3)


def test_a_checkpoint_of_integers_alone(saved: Any, tmp_path: Path) -> None:
    paths = [
        saved.write(tmp_path / f"checkpoint-{step}", {"a.weight": torch.full((9, 9), step, dtype=torch.int8)})
        for step in (1, 2)
    ]
    found = scan(paths[1], {"previous": paths[0]})
    assert (found.tensors, found.drift("previous"), found.unchanged("previous")) == ({}, None, False)
    assert metrics(found)["rldk/checkpoint/unchanged"] == 0.0
    assert "rldk/checkpoint/norm" not in metrics(found)


def test_other_formats_than_before_are_not_compared(saved: Any, tmp_path: Path) -> None:
    first = saved.write(tmp_path / "checkpoint-1", {"a.weight": torch.ones(4, 4)})
    second = saved.write(tmp_path / "checkpoint-2", {"a.weight": torch.ones(4, 4, dtype=torch.int8)})
    found = scan(second, {"previous": first})
    assert found.unchanged("previous") is None
    assert [problem.kind for problem in found.problems] == ["changed"]


def test_the_ranks_shares_add_up(saved: Any, tmp_path: Path) -> None:
    first, second = quantised(saved, tmp_path / "checkpoint-1"), quantised(saved, tmp_path / "checkpoint-2", shift=1)
    parts = [from_dict(to_dict(scan(second, {"previous": first}, share=(rank, 3)))) for rank in range(3)]
    whole = merge(parts)
    assert whole.differing == {"previous": 1}
    assert set(whole.tensors) == set(scan(second).tensors)


def test_a_shard_that_is_cut_while_it_is_read(saved: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = saved.pair()
    original = integrity.check

    def check_and_cut(*args: Any, **kwargs: Any) -> Any:
        problems = original(*args, **kwargs)
        file = path / "model.safetensors"
        with file.open("r+b") as stream:
            stream.truncate(file.stat().st_size // 2)
        return problems

    monkeypatch.setattr(integrity, "check", check_and_cut)
    found = scan(path)
    assert [problem.kind for problem in found.problems] == ["corrupt"]
    assert verdict(found) == "critical"


def test_it_can_be_told_to_stop(saved: Any) -> None:
    path, _ = saved.pair()
    with pytest.raises(ScanCancelledError):
        scan(path, cancelled=lambda: True)
