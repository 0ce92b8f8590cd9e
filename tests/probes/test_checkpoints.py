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
from transformers import LlamaConfig, LlamaForCausalLM

from rldk_tracking import CheckpointMonitor
from rldk_tracking.checkpoint.background import Unscanned
from rldk_tracking.checkpoint.findings import Scan
from rldk_tracking.checkpoint.scan import scan
from rldk_tracking.isolation import Shield
from rldk_tracking.probes import checkpoints
from rldk_tracking.probes.base import ProbeSet, StepData, Training
from rldk_tracking.probes.checkpoints import CheckpointProbe, local_folder
from tests.benchmarks.checkpoint import on_save
from tests.probes.conftest import Published

STEP, SCORE, SCANNED = "rldk/checkpoint/step", "rldk/checkpoint/score", "rldk/checkpoint/scanned"


class Scans:
    """Takes the place of `BackgroundScans`: a scan ends when the test says so."""

    def __init__(self, level: str = "standard") -> None:
        self.level = level
        self.asked: list[tuple[Path, dict[str, Path]]] = []
        self.ended: list[Scan | Unscanned] = []
        self.closed: list[float] = []

    def submit(self, path: Path, against: Mapping[str, Path]) -> None:
        self.asked.append((path, dict(against)))

    def end(self, number: int = -1) -> None:
        path, against = self.asked[number]
        self.ended.append(scan(path, against))

    def give_up(self, number: int, reason: str) -> None:
        self.ended.append(Unscanned(self.asked[number][0], reason))

    def finished(self) -> list[Scan | Unscanned]:
        found, self.ended = self.ended, []
        return found

    def close(self, timeout: float) -> list[Scan | Unscanned]:
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


def save_broken(folder: Path, step: int) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    save_file({"layers.0.weight": torch.full((4, 4), torch.nan)}, path / "model.safetensors")
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


def late(probe: CheckpointProbe) -> dict[int, dict[str, float]]:
    return {step: dict(row) for step, row in probe.late_rows().items()}


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


def test_a_scan_is_in_a_row_of_the_step_of_its_checkpoint(
    tmp_path: Path, scans: list[Scans], published: Published
) -> None:
    probe = begun(tmp_path, published)
    save(tmp_path, 2)
    probe.saved(2)
    assert collected(probe, 3) == late(probe) == {}
    scans[0].end()
    assert collected(probe, 4) == {}, "not in the row of step 4"
    rows = late(probe)
    assert list(rows) == [2] and rows[2][STEP] == 2.0 and rows[2][SCANNED] == 1.0
    assert collected(probe, 5) == late(probe) == {}
    assert dict(probe.scores) == {2: rows[2][SCORE]} and probe.values[SCORE] == rows[2][SCORE]
    assert published.of("log_checkpoint", "checkpoint-2")
    probe.end()


def test_each_checkpoint_has_a_row_however_fast_they_are_saved(tmp_path: Path, scans: list[Scans]) -> None:
    probe = begun(tmp_path, close_timeout=3.0)
    for number, step in enumerate((2, 4, 6, 8)):
        save(tmp_path, step)
        probe.saved(step)
        if step < 8:
            scans[0].end(number)
    assert collected(probe, 9, is_last=True) == {}
    scans[0].end(3)
    assert probe.end() == {}
    rows = late(probe)
    assert {step: row[STEP] for step, row in rows.items()} == {2: 2.0, 4: 4.0, 6: 6.0, 8: 8.0}
    assert dict(probe.scores).keys() == {2, 4, 6, 8}
    assert scans[0].closed == [3.0]
    assert probe.end() == collected(probe, 10) == late(probe) == {}
    assert SCORE in probe.values, "known afterwards too"


def test_a_checkpoint_that_was_not_looked_at_has_a_row_that_says_so(
    tmp_path: Path, scans: list[Scans], published: Published, caplog: pytest.LogCaptureFixture
) -> None:
    probe = begun(tmp_path, published)
    for step in (2, 4, 6):
        save(tmp_path, step)
        probe.saved(step)
    shutil.rmtree(tmp_path / "checkpoint-2")
    scans[0].give_up(0, "checkpoint-2 holds no weights.")
    scans[0].end(1)
    scans[0].give_up(2, "its scan was not over 3 s after the training's end")
    with caplog.at_level(logging.WARNING):
        probe.end()
    rows = late(probe)
    assert {step: row[SCANNED] for step, row in rows.items()} == {2: 0.0, 4: 1.0, 6: 0.0}
    assert rows[2] == {STEP: 2.0, SCANNED: 0.0}
    assert [record.getMessage() for record in caplog.records if record.name.startswith("rldk_tracking.probes")] == [
        "rldk: checkpoint-6 was not looked at: its scan was not over 3 s after the training's end. "
        f"`rldk-tracking checkpoint {tmp_path}` looks at it."
    ]
    history = published.of("log_table", "rldk/checkpoint/history")[-1][1]
    assert [row[0] for row in history] == [2, 4, 6] and history[2][1:] == 8 * [None]


def test_the_best_is_what_a_measure_of_the_policy_says(tmp_path: Path, scans: list[Scans]) -> None:
    state = SimpleNamespace(global_step=0, best_metric=None, best_global_step=None, best_model_checkpoint=None)
    probe = CheckpointProbe()
    probe.begin(
        Training(SimpleNamespace(state=state), SimpleNamespace(output_dir=str(tmp_path), save_total_limit=None))
    )
    merged: Any = None
    rewards = {1: 0.0, 2: 0.2, 3: 0.9, 4: 0.7, 5: 0.1, 6: 0.3}
    assert probe.trend is None
    for step, reward in rewards.items():
        probe.derive(step, {"rldk/reward/mean": reward} if step != 5 else {}, merged)
        if step % 2 == 0:
            (save if step < 6 else save_broken)(tmp_path, step)
            probe.saved(step)
            scans[0].end()
            collected(probe, step)
    found = probe.trend
    assert found is not None
    assert (found.best, found.by) == (4, "the mean reward since the checkpoint before, 0.8")
    assert found.keep == (2, 4) and found.latest == 6, "step 6 holds NaN"
    state.best_metric, state.best_global_step = 0.55, 2
    save(tmp_path, 8)
    probe.saved(8)
    scans[0].end()
    collected(probe, 8)
    found = probe.trend
    assert found is not None and (found.best, found.by) == (2, "the trainer's best_metric 0.55")
    assert found.keep == (2, 8)
    probe.end()


def test_without_a_measure_there_is_no_best(tmp_path: Path, scans: list[Scans]) -> None:
    probe = begun(tmp_path)
    for step in (2, 4):
        save(tmp_path, step)
        probe.saved(step)
        scans[0].end()
        collected(probe, step)
    assert probe.trend is not None and (probe.trend.best, probe.trend.keep) == (None, (2, 4))
    probe.end()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": "deep"}, """level must be "light", "standard" or "full", got 'deep'."""),
        ({"level": "standart"}, 'did you mean "standard"?'),
        ({"level": None}, 'level must be "light"'),
        ({"reference": "/nowhere"}, "reference must be the folder of a model, or the name of one that was downloaded"),
        ({"reference": "org/never-downloaded"}, "one that was downloaded, got 'org/never-downloaded'"),
        ({"reference": 5}, "reference must be the path of a folder, got 5"),
        ({"close_timeout": "10"}, "close_timeout must be a number"),
        ({"close_timeout": -1.0}, "close_timeout must be a number"),
        ({"keep_weights": "no"}, "keep_weights must be True or False, got 'no': write False."),
    ],
)
def test_what_cannot_be_is_refused_before_training(options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError)) as monitored:
        CheckpointMonitor(**options)
    assert message in str(monitored.value)
    with pytest.raises((TypeError, ValueError)) as error:
        CheckpointProbe(**options)
    assert message in str(error.value)


def test_the_folder_of_the_model_below_a_real_adapter(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    config = LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=10)
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    model = LlamaForCausalLM.from_pretrained(tmp_path)
    assert local_folder(peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"]))) == tmp_path


def test_the_base_model_of_an_adapter_is_found_where_it_was_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cached(name: str, file: str, revision: str | None = None) -> str | None:
        return str(tmp_path / file) if (name, file, revision) == ("org/model", "config.json", "abc") else None

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    config = SimpleNamespace(name_or_path="org/model", _commit_hash="abc")
    assert local_folder(SimpleNamespace(config=config, peft_config={})) == tmp_path
    assert local_folder(SimpleNamespace(config=config)) is None, "a whole model needs no other one"


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
    probe, probes = CheckpointProbe(), ProbeSet(Shield(strict=True))
    training = Training(args=SimpleNamespace(output_dir=str(tmp_path), save_total_limit=None))
    assert probes.add([probe], training) == []
    save(tmp_path, 2)
    probes.saved(2)
    probes.collect(data := StepData(3))
    assert scans == [] and data.scalars == probes.end(3) == {}
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


def test_the_benchmark_of_a_save_runs() -> None:
    waits = on_save(3)
    assert len(waits) == 2 and min(waits) > 0
