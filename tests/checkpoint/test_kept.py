from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from rldk_tracking.checkpoint.kept import FOLDER, MOST, KeptWeights
from rldk_tracking.checkpoint.scan import scan


def names(kept: KeptWeights) -> list[str]:
    return [path.name for path in kept.checkpoints()]


def test_the_weights_outlive_the_checkpoint(saved: Any, tmp_path: Path) -> None:
    first, second = saved.pair(by=0.01)
    expected = scan(second, {"previous": first}).drift("previous")
    kept = KeptWeights(tmp_path)
    held = kept.keep(first)
    assert held.parent.name == FOLDER
    assert os.stat(held / "model.safetensors").st_nlink == 2  # no second copy
    assert {file.name for file in held.iterdir()} == {"model.safetensors", "config.json"}  # no optimizer
    shutil.rmtree(first)
    assert scan(second, {"previous": held}).drift("previous") == expected
    kept.clear()
    assert not (tmp_path / FOLDER).exists()


def test_shards_and_their_index(saved: Any, tmp_path: Path) -> None:
    sharded = saved.write_sharded(tmp_path / "checkpoint-10", saved.weights())
    held = KeptWeights(tmp_path).keep(sharded)
    shutil.rmtree(sharded)
    assert len(scan(held).tensors) == 6
    assert scan(held).problems == []


def test_only_what_is_still_compared_with_stays(saved: Any, tmp_path: Path) -> None:
    kept = KeptWeights(tmp_path)
    content = saved.weights()
    for step in (10, 20, 30):
        kept.keep(saved.write(tmp_path / f"checkpoint-{step}", content))
    kept.release(20)
    assert names(kept) == ["checkpoint-10", "checkpoint-20", "checkpoint-30"]
    kept.release(30)
    assert names(kept) == ["checkpoint-10", "checkpoint-30"]
    for step in (40, 50, 60, 70):  # no scan ends
        kept.keep(saved.write(tmp_path / f"checkpoint-{step}", content))
        kept.release(30)
    assert names(kept) == ["checkpoint-10", "checkpoint-60", "checkpoint-70"]
    assert len(names(kept)) == MOST
    kept.forget_after(60)
    assert names(kept) == ["checkpoint-10", "checkpoint-60"]


def test_what_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="checkpoint-10"):
        KeptWeights(tmp_path).keep(tmp_path / "checkpoint-10")
