"""What the probe has scanned and when it tells of it; the scans themselves are made here by the test."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from rldk_tracking.checkpoint.findings import Scan
from rldk_tracking.checkpoint.scan import scan
from rldk_tracking.probes import checkpoints
from rldk_tracking.probes.base import StepData, Training
from rldk_tracking.probes.checkpoints import CheckpointProbe, local_folder
from tests.probes.conftest import Published

STEP, SCORE = "rldk/checkpoint/step", "rldk/checkpoint/score"


class Scans:
    """Takes the place of `BackgroundScans`: a scan ends when the test says so."""

    def __init__(self, level: str = "standard") -> None:
        self.level = level
        self.asked: list[tuple[Path, dict[str, Path]]] = []
        self.ended: list[Scan] = []
        self.closed: list[float] = []

    def submit(self, path: Path, against: Mapping[str, Path]) -> None:
        self.asked.append((path, dict(against)))

    def end(self, number: int = -1) -> None:
        path, against = self.asked[number]
        self.ended.append(scan(path, against))

    def finished(self) -> list[Scan]:
        found, self.ended = self.ended, []
        return found

    def close(self, timeout: float) -> list[Scan]:
        self.closed.append(timeout)
        return self.finished()


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[Scans]:
    """Those that probes have made."""
    made: list[Scans] = []

    def make(level: str) -> Scans:
        made.append(Scans(level))
        return made[-1]

    monkeypatch.setattr(checkpoints, "BackgroundScans", make)
    return made


def save(folder: Path, step: int) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    save_file({"layers.0.weight": torch.full((4, 4), 1.0 + 0.1 * step)}, path / "model.safetensors")
    return path


def begun(folder: Path, published: Published | None = None, model: Any = None, **options: Any) -> CheckpointProbe:
    probe = CheckpointProbe(**options)
    args = SimpleNamespace(output_dir=str(folder), save_total_limit=None)
    shown: dict[str, Any] = {} if published is None else {"publish": published}
    probe.begin(Training(args=args, model=model, **shown))
    return probe


def collected(probe: CheckpointProbe, step: int, is_last: bool = False) -> dict[str, float]:
    data = StepData(step, is_last=is_last)
    probe.collect(data)
    return {key: float(value) for key, value in data.scalars.items()}


def test_every_save_is_scanned_against_those_before_it(tmp_path: Path, scans: list[Scans]) -> None:
    probe = begun(tmp_path, level="full")
    paths = [save(tmp_path, step) for step in (2, 4, 6)]
    for step in (2, 4, 6):
        probe.saved(step)
    (background,) = scans
    assert background.level == "full"
    assert [path for path, _ in background.asked] == paths
    assert [against.get("previous") for _, against in background.asked] == [None, *paths[:2]]
    probe.end()


def test_a_scan_is_in_the_row_of_the_step_at_which_it_ended(
    tmp_path: Path, scans: list[Scans], published: Published
) -> None:
    probe = begun(tmp_path, published)
    save(tmp_path, 2)
    probe.saved(2)
    assert collected(probe, 3) == {}
    scans[0].end()
    row = collected(probe, 4)
    assert row[STEP] == 2.0 and SCORE in row
    assert collected(probe, 5) == {}
    assert dict(probe.scores) == {2: row[SCORE]} and probe.values[SCORE] == row[SCORE]
    assert published.of("log_checkpoint", "checkpoint-2")
    probe.end()


def test_what_ends_at_the_last_step_comes_with_the_last_checkpoint(tmp_path: Path, scans: list[Scans]) -> None:
    """One row cannot hold two of them."""
    probe = begun(tmp_path, close_timeout=3.0)
    for step in (2, 4):
        save(tmp_path, step)
        probe.saved(step)
    scans[0].end(0)
    assert collected(probe, 4, is_last=True) == {}
    scans[0].end(1)
    last = probe.end()
    assert last[STEP] == 4.0 and dict(probe.scores).keys() == {2, 4}
    assert scans[0].closed == [3.0]
    assert probe.end() == collected(probe, 5) == {}
    assert SCORE in probe.values, "known afterwards too"


def test_what_is_held_in_memory_is_in_the_next_row_once(tmp_path: Path, scans: list[Scans]) -> None:
    model = torch.nn.Linear(1000, 1000, bias=False)
    probe = begun(tmp_path, model=model)
    save(tmp_path, 2)
    probe.saved(2)
    assert collected(probe, 3)["rldk/memory/parameters_gib"] * 2**30 == 4e6
    assert collected(probe, 4) == {}
    probe.end()


def test_a_save_that_is_not_there_is_named_once(
    tmp_path: Path, scans: list[Scans], caplog: pytest.LogCaptureFixture
) -> None:
    probe = begun(tmp_path)
    with caplog.at_level(logging.WARNING):
        for step in (2, 4):
            probe.saved(step)
    assert scans == [] and len(caplog.records) == 1 and "checkpoint-2" in caplog.text
    probe.end()


def test_that_nothing_is_there_to_compare_with_any_more_is_said_once(
    tmp_path: Path, scans: list[Scans], caplog: pytest.LogCaptureFixture
) -> None:
    probe = begun(tmp_path)
    first = save(tmp_path, 2)
    probe.saved(2)
    with caplog.at_level(logging.WARNING):
        for step in (4, 6):
            save(tmp_path, step)
            shutil.rmtree(first, ignore_errors=True)
            probe.saved(step)
            scans[0].end()
            collected(probe, step)
    assert [record.getMessage() for record in caplog.records if "drift ends: checkpoint-2" in record.getMessage()] != []
    assert caplog.text.count("drift ends") == 1
    probe.end()


def test_the_first_rank_alone_looks(tmp_path: Path, scans: list[Scans], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    probe = begun(tmp_path)
    save(tmp_path, 2)
    probe.saved(2)
    assert scans == [] and collected(probe, 3) == probe.end() == {}
    assert (dict(probe.values), dict(probe.scores)) == ({}, {})


def test_a_loop_without_a_folder_saves_nothing(scans: list[Scans]) -> None:
    probe = CheckpointProbe()
    probe.begin(Training())
    assert collected(probe, 1) == probe.end() == {}


@pytest.mark.parametrize(
    ("limit", "options", "kept"),
    [(1, {}, True), (None, {}, False), (1, {"keep_weights": False}, False), (1, {"level": "light"}, False)],
)
def test_weights_are_kept_where_the_trainer_deletes_them(
    tmp_path: Path, scans: list[Scans], limit: int | None, options: dict[str, Any], kept: bool
) -> None:
    probe = CheckpointProbe(**options)
    probe.begin(Training(args=SimpleNamespace(output_dir=str(tmp_path), save_total_limit=limit)))
    paths = [save(tmp_path, step) for step in (2, 4)]
    probe.saved(2)
    probe.saved(4)
    previous = scans[0].asked[1][1]["previous"]
    assert (previous != paths[0]) == kept and (previous / "model.safetensors").exists()
    probe.end()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-4"]


def test_drift_is_measured_from_where_the_model_was_loaded(tmp_path: Path, scans: list[Scans]) -> None:
    start = save(tmp_path / "start", 0)
    model = SimpleNamespace(config=SimpleNamespace(name_or_path=str(start)))
    assert local_folder(model) == start
    assert local_folder(SimpleNamespace(config=SimpleNamespace(name_or_path="org/model"))) is None
    assert local_folder(SimpleNamespace()) is None
    for options, expected in (({}, start), ({"reference": str(tmp_path)}, tmp_path)):
        probe = begun(tmp_path / "run", model=model, **options)
        if not (tmp_path / "run").exists():
            save(tmp_path / "run", 2)
        probe.saved(2)
        assert expected in scans[-1].asked[0][1].values()
        probe.end()


def test_a_resumed_training_knows_the_checkpoints_before_it(tmp_path: Path, scans: list[Scans]) -> None:
    paths = [save(tmp_path, step) for step in (2, 4)]
    trainer = SimpleNamespace(state=SimpleNamespace(global_step=4))
    probe = CheckpointProbe()
    probe.begin(Training(trainer, SimpleNamespace(output_dir=str(tmp_path), save_total_limit=None)))
    save(tmp_path, 6)
    probe.saved(6)
    assert scans[0].asked[0][1]["previous"] == paths[1]
    probe.end()
