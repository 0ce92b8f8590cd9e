from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from rldk_tracking.checkpoint.findings import Scan, step_of
from rldk_tracking.checkpoint.report import metrics
from rldk_tracking.checkpoint.scan import scan


@pytest.mark.parametrize(
    ("name", "step"), [("checkpoint-200", 200), ("checkpoint-x", None), ("model", None), ("checkpoint-", None)]
)
def test_step_of_a_folder(name: str, step: int | None) -> None:
    assert step_of(Path("runs") / name) == step


def test_drift_of_all_of_a_layer_and_of_the_matrices(saved: Any) -> None:
    first, second = saved.pair(by=0.02)
    found = scan(second, {"previous": first})
    old, new = (load_file(path / "model.safetensors") for path in (first, second))

    def distance(names: list[str]) -> float:
        return math.sqrt(sum(float((new[n].double() - old[n].double()).square().sum()) for n in names))

    layer = [name for name in old if "layers.1" in name]
    matrices = [name for name in old if old[name].ndim > 1]
    assert found.drift("previous").distance == pytest.approx(distance(list(old)), rel=1e-5)  # type: ignore[union-attr]
    drift = found.drift("previous", "model.layers.1")
    assert drift is not None and drift.distance == pytest.approx(distance(layer), rel=1e-5)
    drift = found.drift("previous", matrices=True)
    assert drift is not None and drift.distance == pytest.approx(distance(matrices), rel=1e-5)
    assert found.drift("first") is None and found.drift("previous", "no such layer") is None
    assert list(found.layers()) == ["lm_head", "model.embed_tokens", "model.layers.0", "model.layers.1"]


def test_nothing_found_is_nothing_known() -> None:
    found = Scan(Path("checkpoint-1"), compared=("previous",))
    assert (found.drift("previous"), found.unchanged("previous"), found.nonfinite) == (None, None, [])


def test_as_plain_data_and_back(saved: Any) -> None:
    first, second = saved.pair()
    (second / "optimizer.pt").unlink()
    found = scan(second, {"previous": first}, level="full")
    again = Scan.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert (again.tensors, again.entries, again.problems) == (found.tensors, found.entries, found.problems)
    assert metrics(again) == metrics(found)
