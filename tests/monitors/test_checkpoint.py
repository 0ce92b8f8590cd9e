"""The monitor in real trainings: every checkpoint is looked at, and none of it costs the training."""

from __future__ import annotations

import math
import re
import shutil
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer, TrainerCallback, TrainingArguments

from rldk_tracking import CheckpointMetrics, CheckpointMonitor, InMemoryTracker, RLDKCallback
from rldk_tracking.charts.pictures import heatmap_svg
from rldk_tracking.metrics.keys import CATALOGUE, lookup
from rldk_tracking.probes.checkpoints import CheckpointProbe

pytestmark = pytest.mark.slow


class Model(torch.nn.Module):
    """Two layers that learn to add."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.ModuleList([torch.nn.Linear(4, 32), torch.nn.Linear(32, 1)])
        self.to(dtype)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        x, y = x.to(self.layers[0].weight.dtype), y.to(self.layers[0].weight.dtype)
        return {"loss": (self.layers[1](torch.tanh(self.layers[0](x))).squeeze(-1) - y).square().mean()}


class Spoil(TrainerCallback):
    """Spoils the model after a step."""

    def __init__(self, at: int, spoil: Any) -> None:
        self.at, self.spoil = at, spoil

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step == self.at:
            self.spoil(model)


def train(
    folder: Path, callbacks: list[Any], *, steps: int = 6, model: torch.nn.Module | None = None, **options: Any
) -> None:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(256, 4, generator=generator)
    data = [{"x": row, "y": row.sum()} for row in rows]
    arguments: dict[str, Any] = {
        "max_steps": steps,
        "save_steps": 2,
        "logging_steps": 1,
        "per_device_train_batch_size": 16,
        "learning_rate": 1e-2,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "steps",
        **options,
    }
    trainer = Trainer(
        model or Model(), TrainingArguments(str(folder), **arguments), train_dataset=data, callbacks=callbacks
    )
    trainer.train()


def values(tracker: InMemoryTracker, key: str) -> list[float]:
    return [value for _, value in tracker.series.get(key, [])]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_drift_and_layers(dtype: torch.dtype, tmp_path: Path) -> None:
    tracker = InMemoryTracker()
    monitor = CheckpointMonitor(trackers=[tracker], close_timeout=60.0, strict=True)
    train(tmp_path, [monitor], model=Model(dtype))
    weights = [load_file(tmp_path / f"checkpoint-{step}" / "model.safetensors") for step in (2, 4, 6)]
    flat = [torch.cat([w[name].double().flatten() for name in sorted(w)]) for w in weights]
    assert monitor.history.keys() == {2, 4, 6}
    assert tracker.series["rldk/checkpoint/step"] == [(2, 2.0), (4, 4.0), (6, 6.0)]
    want = ((flat[2] - flat[0]).norm() / flat[0].norm()).item()
    assert values(tracker, "rldk/checkpoint/drift")[-1] == pytest.approx(want, rel=1e-4)
    want = ((flat[2] - flat[1]).norm() / flat[1].norm()).item()
    assert monitor.metrics.parameter_drift_previous == pytest.approx(want, rel=1e-4)
    assert monitor.metrics.gradient_norm is not None and monitor.metrics.gradient_norm > 0
    assert monitor.metrics.optimizer_gib is not None
    assert monitor.trend is not None and monitor.trend.latest == 6
    assert monitor.metrics.score == monitor.history[6] == values(tracker, "rldk/checkpoint/score")[-1]
    emitted = [key for key in tracker.series if lookup(key) is None]
    assert emitted == []
    assert "rldk/checkpoint/layers" in tracker.tables
    assert [alert.rule for alert in tracker.alerts if alert.rule.startswith("checkpoint")] == []


def test_saves_that_are_faster_than_scans_have_a_row_each(tmp_path: Path) -> None:
    tracker = InMemoryTracker()
    monitor = CheckpointMonitor(trackers=[tracker], close_timeout=60.0, strict=True, enable_gradient_analysis=False)
    train(tmp_path, [monitor], steps=10, save_steps=1)
    saves = [(step, float(step)) for step in range(1, 11)]
    assert tracker.series["rldk/checkpoint/step"] == saves
    assert tracker.series["rldk/checkpoint/scanned"] == [(step, 1.0) for step, _ in saves]
    assert [step for step, _ in tracker.series["rldk/checkpoint/drift"]] == list(range(2, 11))
    for key in ("rldk/health/score", "rldk/alerts/firing"):
        steps = [step for step, _ in tracker.series[key]]
        assert len(steps) == len(set(steps)), key
    assert monitor.run is not None and monitor.run.latest_step == 10


def test_saves_that_are_not_looked_at_have_a_row_that_says_so(tmp_path: Path) -> None:
    tracker = InMemoryTracker()
    train(tmp_path, [CheckpointMonitor(trackers=[tracker], close_timeout=0.0)], steps=4, save_steps=1)
    assert {step for step, _ in tracker.series["rldk/checkpoint/scanned"]} == {1, 2, 3, 4}
    assert values(tracker, "rldk/checkpoint/scanned")[-1] == 0.0


def test_before_training_everything_is_none() -> None:
    metrics = CheckpointMonitor().metrics
    assert isinstance(metrics, CheckpointMetrics)
    assert set(metrics.to_dict().values()) == {None}
    assert CheckpointMonitor().history == {}
    assert CheckpointMonitor().trend is None


def test_heat_maps(tmp_path: Path) -> None:
    tracker = InMemoryTracker()
    train(tmp_path, [CheckpointMonitor(trackers=[tracker], close_timeout=60.0)])
    for key in ("rldk/checkpoint/drift_by_layer", "rldk/checkpoint/gradient_by_layer"):
        assert {"layers.0", "layers.1"} <= set(tracker.heatmaps[key].rows)
        assert "layers.0" in heatmap_svg(tracker.heatmaps[key])


def test_a_layer_without_a_finite_gradient_is_seen(tmp_path: Path) -> None:
    tracker = InMemoryTracker()
    model = Model()
    model.layers[0].bias.register_hook(lambda gradient: gradient * math.nan)
    monitor = CheckpointMonitor(trackers=[tracker], close_timeout=60.0)
    train(tmp_path, [monitor], model=model, steps=1, save_steps=1, max_grad_norm=0)
    cells = tracker.heatmaps["rldk/checkpoint/gradient_by_layer"].cells()
    values = {row: value for step, row, value in cells if step == 1}
    assert math.isnan(values["layers.0"]) and not math.isnan(values["layers.1"])


def nan(model: torch.nn.Module) -> None:
    model.layers[0].weight.data[0, 0] = math.nan  # type: ignore[index, union-attr]


def test_a_nan_is_found_in_what_was_saved(tmp_path: Path) -> None:
    tracker = InMemoryTracker()
    train(tmp_path, [CheckpointMonitor(trackers=[tracker], close_timeout=60.0), Spoil(3, nan)])
    fired = {alert.rule for alert in tracker.alerts if alert.state == "firing"}
    broken = {step: value > 0 for step, value in tracker.series["rldk/checkpoint/nonfinite"]}
    assert broken == {2: False, 4: True, 6: True}
    assert {"nan.weights"} <= fired
    assert "checkpoint.unchanged" not in fired and "rldk/checkpoint/unchanged" in tracker.series


def test_a_run_that_learns_nothing(tmp_path: Path) -> None:
    tracker = InMemoryTracker()
    train(tmp_path, [CheckpointMonitor(trackers=[tracker], close_timeout=60.0)], learning_rate=0.0, weight_decay=0.0)
    assert max(values(tracker, "rldk/checkpoint/unchanged")) == 1.0


class Detached(Model):
    """Its first layer gets no gradient."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.layers[1](torch.tanh(self.layers[0](x)).detach()).squeeze(-1) - y).square().mean()}


def test_a_frozen_layer(tmp_path: Path) -> None:
    tracker = InMemoryTracker()
    monitor = CheckpointMonitor(trackers=[tracker], close_timeout=60.0)
    train(tmp_path, [monitor], model=Detached(), steps=14, save_steps=7)
    assert {"grad.flow", "update.frozen"} & {alert.rule for alert in tracker.alerts if alert.state == "firing"}
    assert set(values(tracker, "rldk/update/frozen_layers")) == {1.0}
    assert values(tracker, "rldk/checkpoint/still_layers") == [1.0]


def test_rotation_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker = InMemoryTracker()
    train(tmp_path, [CheckpointMonitor(trackers=[tracker], close_timeout=60.0)], save_total_limit=1, steps=8)
    assert values(tracker, "rldk/checkpoint/score")[-1] > 0.5
    assert "failed" not in caplog.text
    # Both are measured from weights that the trainer has deleted.
    assert values(tracker, "rldk/checkpoint/drift")[-1] > values(tracker, "rldk/checkpoint/drift_previous")[-1] > 0
    assert [path.name for path in tmp_path.iterdir() if path.is_dir() and path.name != "_rldk"] == ["checkpoint-8"]


def test_a_missing_optimizer_state(tmp_path: Path) -> None:
    tracker = InMemoryTracker()
    train(tmp_path, [CheckpointMonitor(trackers=[tracker], close_timeout=60.0)], save_only_model=True)
    # Asked for by the user: no part of the state is there, so nothing is missing.
    assert values(tracker, "rldk/checkpoint/incomplete")[-1] == 0.0


def test_the_training_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    saved = CheckpointProbe.saved

    def timed(self: CheckpointProbe, step: int) -> None:
        start = time.perf_counter()
        saved(self, step)
        waits.append(time.perf_counter() - start)

    monkeypatch.setattr(CheckpointProbe, "saved", timed)
    before = set(psutil.Process().children())
    monitor = CheckpointMonitor(trackers=[InMemoryTracker()], close_timeout=0.0)
    train(tmp_path, [monitor], steps=12)
    assert len(waits) == 6
    assert sorted(waits)[3] < 5e-3
    began = set(psutil.Process().children()) - before
    assert [process for process in began if process.status() != psutil.STATUS_ZOMBIE] == []


def test_beside_the_callback_nothing_is_measured_twice(tmp_path: Path) -> None:
    tracker = InMemoryTracker()
    train(tmp_path, [RLDKCallback(trackers=[tracker]), CheckpointMonitor(trackers=[tracker], close_timeout=60.0)])
    for key, points in tracker.series.items():
        steps = [step for step, _ in points]
        if key.startswith("rldk/grad"):
            assert len(steps) == len(set(steps)), key


def test_twice(tmp_path: Path) -> None:
    tracker = InMemoryTracker()
    monitor = CheckpointMonitor(trackers=[tracker], close_timeout=60.0)
    train(tmp_path / "a", [monitor])
    shutil.rmtree(tmp_path / "a")
    train(tmp_path / "b", [monitor])
    assert monitor.history.keys() == {2, 4, 6}


@pytest.mark.parametrize(
    ("options", "absent"),
    [
        ({"enable_parameter_analysis": False}, "rldk/checkpoint/norm"),
        ({"enable_gradient_analysis": False}, "rldk/grad/norm"),
    ],
)
def test_what_is_switched_off_is_absent(options: dict[str, bool], absent: str, tmp_path: Path) -> None:
    tracker = InMemoryTracker()
    train(tmp_path, [CheckpointMonitor(trackers=[tracker], close_timeout=60.0, **options)])
    assert absent not in tracker.series
    assert "rldk/checkpoint/score" in tracker.series


def test_each_checkpoint_goes_to_the_trackers_that_keep_models(tmp_path: Path) -> None:
    tracker = InMemoryTracker()
    train(tmp_path, [CheckpointMonitor(trackers=[tracker], close_timeout=60.0)])
    assert set(tracker.checkpoints) == {"checkpoint-2", "checkpoint-4", "checkpoint-6"}
    assert "rldk/checkpoint/score" in tracker.checkpoints["checkpoint-4"]
    _, columns, rows = tracker.tables["rldk/checkpoint/history"][-1]
    assert [row[0] for row in rows] == [2, 4, 6]
    assert all(len(row) == len(columns) for row in rows)


def test_the_docstring_names_each_group_of_series_of_weights_and_optimizer() -> None:
    named = re.search(r"Groups of series \(see `rldk-tracking keys`\): ([^.]*)\.", CheckpointMonitor.__doc__ or "")
    homes = re.compile(r"/checkpoint/|/checkpoint_log|/schedule|metrics/(norms|updates|layers|noise_scale)")
    groups = {key.name.split("/")[1] for key in CATALOGUE.values() if homes.search(key.module)}
    assert named is not None and set(named[1].split(", ")) == groups
