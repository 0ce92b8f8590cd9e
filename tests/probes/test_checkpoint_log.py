from __future__ import annotations

import logging
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from rldk_tracking.checkpoint import report
from rldk_tracking.checkpoint.findings import Problem
from rldk_tracking.checkpoint.scan import scan
from rldk_tracking.health.engine import Engine
from rldk_tracking.health.presets import rules_for
from rldk_tracking.probes.checkpoint_log import (
    HEATMAP_STEPS,
    HISTORY_ROWS,
    PROBLEMS,
    WORST_LAYERS,
    CheckpointLog,
    layer_drifts,
    saves_left,
)
from tests.probes.conftest import Published


def save(folder: Path, step: int, **changed: torch.Tensor) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir()
    weights = {f"layers.{n}.weight": torch.full((4, 4), 1.0 + 0.01 * step) for n in range(3)}
    save_file(weights | {name.replace("_", "."): value for name, value in changed.items()}, path / "model.safetensors")
    return path


NAN = torch.full((4, 4), math.nan)


def test_one_that_was_not_scanned_is_in_the_table_without_numbers(published: Published, tmp_path: Path) -> None:
    log = CheckpointLog(published, None)
    log.log(scan(save(tmp_path, 1)))
    assert log.log_unscanned(2) == {"rldk/checkpoint/step": 2.0, "rldk/checkpoint/scanned": 0.0}
    _, rows, step = published.of("log_table", "rldk/checkpoint/history")[-1]
    assert [row[0] for row in rows] == [1, 2] and set(rows[1][1:]) == {None} and step == 2
    assert log.usable == {1} and log.scores.keys() == {1}


def test_each_checkpoint_is_shown_at_once(published: Published, tmp_path: Path) -> None:
    first, second = save(tmp_path, 1), save(tmp_path, 2)
    log = CheckpointLog(published, None)
    rows = [log.log(scan(first)), log.log(scan(second, {"previous": first}))]
    for path, row, step in zip((first, second), rows, (1, 2), strict=True):
        ((metrics, facts, at),) = published.of("log_checkpoint", path.name)
        assert metrics == row and at == step
        assert facts["path"] == str(path) and facts["tensors"] == "3" and facts["verdict"]
    columns, layers, _ = published.of("log_table", "rldk/checkpoint/layers")[-1]
    assert columns == list(report.LAYER_COLUMNS) and len(layers) == 3
    columns, history, step = published.of("log_table", "rldk/checkpoint/history")[-1]
    assert step == 2 and [row[0] for row in history] == [1, 2]
    by_name = dict(zip(columns, history[1], strict=True))
    assert by_name["drift_previous"] == rows[1]["rldk/checkpoint/drift_previous"] > 0
    ((heatmap, step),) = published.of("log_heatmap", "rldk/checkpoint/drift_by_layer")
    assert step == 2 and "layers.2" in heatmap.rows and heatmap.steps == (2,)


def test_only_the_worst_layers_and_the_first_problems_are_listed(
    published: Published, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    many = {f"layers_{n}_weight": NAN.clone() for n in range(WORST_LAYERS + 10)}
    found = scan(save(tmp_path, 1, **many))
    found.problems = [Problem("corrupt", "a", f"number {n} is wrong") for n in range(PROBLEMS + 5)]
    with caplog.at_level(logging.WARNING):
        CheckpointLog(published, None).log(found)
    assert len(published.of("log_table", "rldk/checkpoint/layers")[0][1]) == WORST_LAYERS
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"rldk: checkpoint-1: number {n} is wrong" for n in range(PROBLEMS)]


def test_drift_of_every_layer(tmp_path: Path) -> None:
    first = save(tmp_path, 1)
    second = save(tmp_path, 2, layers_1_weight=NAN)
    found = layer_drifts(scan(second, {"previous": first}))
    assert list(found) == ["layers.0", "layers.1", "layers.2"]
    assert found["layers.0"] == pytest.approx(0.01 / 1.01, rel=1e-5)
    assert math.isnan(found["layers.1"])
    assert layer_drifts(scan(first)) == {}


def test_what_is_kept_does_not_grow(published: Published, tmp_path: Path) -> None:
    first, second = save(tmp_path, 1), save(tmp_path, 2)
    found = scan(second, {"previous": first})
    log = CheckpointLog(published, None)
    for step in range(HISTORY_ROWS + 20):
        found.step = step
        log.log(found)
    assert len(published.of("log_table", "rldk/checkpoint/history")[-1][1]) == HISTORY_ROWS
    heatmap = published.of("log_heatmap", "rldk/checkpoint/drift_by_layer")[-1][0]
    last = HISTORY_ROWS + 19
    assert heatmap.steps == tuple(range(last - HEATMAP_STEPS + 1, last + 1))


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


@pytest.mark.parametrize(("room", "short"), [(2.5, True), (3.5, False)])
def test_a_disk_that_runs_full_is_an_alert(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: float, short: bool
) -> None:
    path = save(tmp_path, 10)
    size = scan(path).nbytes
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=room * size))
    row = CheckpointLog(published, SimpleNamespace(save_steps=10, max_steps=40)).log(scan(path))
    assert row["rldk/checkpoint/room_for_saves"] == room
    assert row["rldk/checkpoint/disk_short"] == float(short)
    alerts = Engine(rules_for("safe")).update(10, row)
    assert [alert.rule for alert in alerts] == ["checkpoint.disk"] * short


def test_a_checkpoint_that_was_deleted_meanwhile_has_no_room_to_tell_of(published: Published, tmp_path: Path) -> None:
    path = save(tmp_path, 10)
    found = scan(path)
    shutil.rmtree(tmp_path)
    row = CheckpointLog(published, SimpleNamespace(save_steps=10, max_steps=40)).log(found)
    assert "rldk/checkpoint/room_for_saves" not in row and "rldk/checkpoint/score" in row


def test_why_an_adapter_has_no_drift_is_said_once(
    published: Published, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = scan(save(tmp_path, 1))
    found.unknown = "DoRA\x1b is not measured"
    log = CheckpointLog(published, None)
    for _ in range(2):
        log.log(found)
    (record,) = caplog.records
    assert "have moved is not known: DoRA\\x1b is not measured. The drift" in record.getMessage()


GIB = float(1 << 30)
SUGGESTIONS = "rldk/memory/suggestions"


def trained() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """A million parameters of 4 bytes, with gradients and Adam's two moments."""
    model = torch.nn.Linear(1000, 1000, bias=False)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 1000)).sum().backward()
    optimizer.step()
    return model, optimizer


def test_what_is_held_is_told_at_each_save_and_advice_until_the_size_is_known(published: Published) -> None:
    model, optimizer = trained()
    log = CheckpointLog(published, SimpleNamespace(save_total_limit=None))
    for step, (size, saves) in enumerate([(None, 0), (1.0, 5), (1.0, 9)]):
        log.values |= {} if size is None else {"rldk/checkpoint/size_gib": size}
        log.scores = dict.fromkeys(range(saves), 1.0)
        row = log.log_memory(model, optimizer, step)
        assert row["rldk/memory/parameters_gib"] * GIB == 4e6
        assert row["rldk/memory/gradients_gib"] * GIB == 4e6
        assert row["rldk/memory/optimizer_gib"] * GIB == pytest.approx(8e6, rel=1e-3)
        assert "rldk/memory/activations_gib" not in row
    ((columns, rows, step),) = published.of("log_table", SUGGESTIONS)
    assert (step, columns) == (1, ["change", "saves GiB"])
    assert rows == [["save_total_limit=2", 3.0]]


def test_where_there_is_nothing_to_suggest_there_is_no_table(published: Published) -> None:
    log = CheckpointLog(published, SimpleNamespace(save_total_limit=2))
    log.values["rldk/checkpoint/size_gib"], log.scores = 1.0, dict.fromkeys(range(9), 1.0)
    log.log_memory(*trained(), 1)
    assert published.calls == []
