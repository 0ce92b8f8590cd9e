from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from rldk_tracking.checkpoint.scan import scan
from rldk_tracking.monitors.checkpoint_log import HEATMAP_STEPS, HISTORY_ROWS, CheckpointLog, layer_drifts, saves_left


def save(folder: Path, step: int, **changed: torch.Tensor) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir()
    weights = {f"layers.{n}.weight": torch.full((4, 4), 1.0 + 0.01 * step) for n in range(3)}
    save_file(weights | {name.replace("_", "."): value for name, value in changed.items()}, path / "model.safetensors")
    return path


def test_counts_of_scans_that_ended_together_are_the_worst(run: Any, tmp_path: Path) -> None:
    broken = save(tmp_path, 1, layers_1_weight=torch.full((4, 4), math.nan))
    whole = save(tmp_path, 2)
    log = CheckpointLog(run, None)
    row = log.tell_all([scan(broken), scan(whole, {"previous": broken})])
    assert row["rldk/checkpoint/step"] == 2.0
    assert row["rldk/checkpoint/nonfinite"] == 1.0, "of the first, which nobody else would see"
    assert log.tell_all([]) == {}
    assert set(log.scores) == {1, 2} and log.scores[1] == 0.0


def test_drift_of_every_layer(tmp_path: Path) -> None:
    first = save(tmp_path, 1)
    second = save(tmp_path, 2, layers_1_weight=torch.full((4, 4), math.nan))
    found = layer_drifts(scan(second, {"previous": first}))
    assert list(found) == ["layers.0", "layers.1", "layers.2"]
    assert found["layers.0"] == pytest.approx(0.01 / 1.01, rel=1e-5)
    assert math.isnan(found["layers.1"])
    assert layer_drifts(scan(first)) == {}


def test_what_is_kept_does_not_grow(run: Any, tmp_path: Path) -> None:
    first, second = save(tmp_path, 1), save(tmp_path, 2)
    found = scan(second, {"previous": first})
    log = CheckpointLog(run, None)
    for step in range(HISTORY_ROWS + 20):
        found.step = step
        log.tell(found)
        log.tell_gradients(["a", "b"], {"a": 1.0}, step)
    assert len(log._history) == HISTORY_ROWS
    assert len(log._drifts) == len(log._gradients) == HEATMAP_STEPS


@pytest.mark.parametrize(
    ("options", "step", "expected"),
    [
        ({"save_steps": 10, "max_steps": 100}, 40, 6),
        ({"save_steps": 10, "max_steps": 100}, 100, 0),
        ({"save_steps": 10, "max_steps": 100, "save_total_limit": 2}, 40, 1),
        ({"save_steps": 10, "max_steps": -1}, 40, None),
        ({"save_steps": 0.1, "max_steps": 100}, 40, None),
        ({}, None, None),
    ],
)
def test_saves_to_come(options: dict[str, Any], step: int | None, expected: int | None) -> None:
    assert saves_left(SimpleNamespace(**options), step) == expected


def test_a_disk_that_runs_full_is_an_alert(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, 10)
    size = scan(path).nbytes
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=2.5 * size))
    args = SimpleNamespace(save_steps=10, max_steps=40)
    run.add(CheckpointLog(run, args).tell(scan(path)))
    run.finish(10)
    assert run.latest["rldk/checkpoint/room_for_saves"] == 2.5
    assert [alert.rule for alert in run.alerts] == ["checkpoint.disk"]
