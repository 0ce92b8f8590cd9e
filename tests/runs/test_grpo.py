"""Real GRPO and RLOO runs: what a user sees in the row must be what the trainer's own tensors say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from rldk_tracking.callback import RLDKCallback, attach
from rldk_tracking.demo.trainers import grpo_trainer, rloo_trainer
from rldk_tracking.trackers.memory import InMemoryTracker

STEPS = 6


class Spy(TrainerCallback):
    """Keeps what the trainer itself shows at each step, in the test's own way."""

    def __init__(self) -> None:
        self.trainer: Any = None
        self.steps: dict[int, dict[str, Any]] = {}
        self.logs: dict[int, dict[str, float]] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        batches = self.trainer._buffered_inputs
        self.steps[state.global_step] = {
            "rewards": {name: list(values) for name, values in self.trainer._logs["rewards"].items()},
            "advantages": torch.cat([batch["advantages"] for batch in batches]).double(),
            "lengths": torch.cat([batch["completion_mask"].sum(1) for batch in batches]).double(),
        }

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" in logs:
            self.logs[state.global_step] = dict(logs)


@pytest.fixture(scope="module", params=["grpo", "rloo"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[InMemoryTracker, Spy]:
    tracker, spy = InMemoryTracker(), Spy()
    make = {"grpo": grpo_trainer, "rloo": rloo_trainer}[request.param]
    trainer = make(
        tmp_path_factory.mktemp(request.param),
        max_steps=STEPS,
        callbacks=[RLDKCallback(trackers=[tracker], strict=True), spy],
    )
    spy.trainer = trainer
    trainer.train()
    return tracker, spy


def test_there_is_one_value_at_every_step(run: tuple[InMemoryTracker, Spy]) -> None:
    tracker, _ = run
    for key in (
        "rldk/kl/ref_k1",
        "rldk/kl/ref_k3",
        "rldk/kl/ref_per_sequence",
        "rldk/policy/entropy",
        "rldk/advantage/mean",
        "rldk/advantage/std",
        "rldk/reward/mean",
        "rldk/reward/std",
        "rldk/reward/min",
        "rldk/reward/max",
        "rldk/reward/group_tied_fraction",
        "rldk/length/mean",
        "rldk/length/max",
        "rldk/length/truncated_fraction",
        "rldk/grad/norm",
        "rldk/resources/host_rss_gib",
        "rldk/health/score",
        "rldk/alerts/firing",
    ):
        assert [step for step, _ in tracker.series[key]] == list(range(1, STEPS + 1)), key


def test_values_equal_the_trainers_tensors(run: tuple[InMemoryTracker, Spy]) -> None:
    tracker, spy = run
    for step, seen in spy.steps.items():
        (name,) = seen["rewards"]
        rewards = torch.tensor(seen["rewards"][name], dtype=torch.float64)
        groups = rewards.view(-1, 8)
        expected = {
            "rldk/reward/mean": rewards.mean(),
            "rldk/reward/std": rewards.std(),
            "rldk/reward/min": rewards.min(),
            "rldk/reward/max": rewards.max(),
            "rldk/reward/group_tied_fraction": (groups.max(1).values == groups.min(1).values).double().mean(),
            "rldk/advantage/mean": seen["advantages"].mean(),
            "rldk/advantage/std": seen["advantages"].std(),
            "rldk/length/mean": seen["lengths"].mean(),
            "rldk/length/max": seen["lengths"].max(),
        }
        for key, value in expected.items():
            assert dict(tracker.series[key])[step] == pytest.approx(value.item(), rel=1e-6, abs=1e-9), (key, step)


def test_values_equal_the_trainers_logs_where_those_are_right(run: tuple[InMemoryTracker, Spy]) -> None:
    tracker, spy = run
    shown = {
        "grad_norm": "rldk/grad/norm",
        "entropy": "rldk/policy/entropy",
        "completions/clipped_ratio": "rldk/length/truncated_fraction",
        "learning_rate": "rldk/update/learning_rate",
        "loss": "rldk/train/loss",
    }
    for step, logs in spy.logs.items():
        for log_key, key in shown.items():
            if log_key in logs:
                assert dict(tracker.series[key])[step] == pytest.approx(logs[log_key], rel=1e-4, abs=1e-6), (key, step)


def test_what_is_zero_by_construction_is_left_out(run: tuple[InMemoryTracker, Spy]) -> None:
    tracker, _ = run
    if "rldk/policy/clip_fraction" in tracker.series:  # RLOO computes old log-probabilities in every configuration
        assert all(value >= 0 for _, value in tracker.series["rldk/policy/clip_fraction"])
    absent = [key for key in tracker.series if key.startswith(("rldk/value/", "rldk/sampler/"))]
    assert absent == []


def test_without_a_reference_there_is_no_kl(tmp_path: Path) -> None:
    tracker = InMemoryTracker()
    grpo_trainer(tmp_path, max_steps=2, beta=0.0, callbacks=[RLDKCallback(trackers=[tracker], strict=True)]).train()
    assert "rldk/reward/mean" in tracker.series
    assert [key for key in tracker.series if key.startswith("rldk/kl/")] == []


def test_attach_and_the_metrics_view(tmp_path: Path) -> None:
    trainer = grpo_trainer(tmp_path, max_steps=2, save_steps=1, save_strategy="steps")
    tracker = InMemoryTracker()
    callback = attach(trainer, trackers=[tracker], strict=True)
    assert attach(trainer) is callback
    assert callback.metrics.reward_mean is None
    trainer.train()
    assert callback.metrics.reward_mean == tracker.series["rldk/reward/mean"][-1][1]
    assert callback.metrics.step == 2


def test_an_unlogged_step_has_its_row_too(tmp_path: Path) -> None:
    tracker = InMemoryTracker()
    callback = RLDKCallback(trackers=[tracker], strict=True)
    grpo_trainer(tmp_path, max_steps=4, logging_steps=2, callbacks=[callback]).train()
    assert [step for step, _ in tracker.series["rldk/reward/mean"]] == [1, 2, 3, 4]
    assert [step for step, _ in tracker.series["rldk/train/loss"]] == [2, 4]


def test_two_monitors_write_nothing_twice(tmp_path: Path) -> None:
    from rldk_tracking.monitors.checkpoint import CheckpointMonitor
    from rldk_tracking.monitors.group import GroupMonitor

    tracker = InMemoryTracker()
    callbacks = [
        GroupMonitor(trackers=[tracker], strict=True),
        RLDKCallback(trackers=[tracker], strict=True),
        CheckpointMonitor(),
    ]
    grpo_trainer(tmp_path, max_steps=3, callbacks=callbacks).train()
    steps = {key: [step for step, _ in points] for key, points in tracker.series.items()}
    assert steps["rldk/reward/mean"] == [1, 2, 3]
    assert [step for step, _ in tracker.series["rldk/grad/norm"]] == [1, 2, 3]


@pytest.mark.parametrize("where", ["on_step_begin", "on_step_end"])
def test_a_nan_weight_is_critical_within_one_step(tmp_path: Path, where: str) -> None:
    class Break(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            if where == "on_step_end" and state.global_step == 3:
                next(model.parameters()).data.view(-1)[0] = float("nan")

        def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            if where == "on_step_begin" and state.global_step == 2:
                next(model.parameters()).data.view(-1)[0] = float("nan")

    tracker = InMemoryTracker()
    trainer = grpo_trainer(tmp_path, max_steps=6, callbacks=[Break(), RLDKCallback(trackers=[tracker])])
    try:
        trainer.train()
    except RuntimeError as error:  # torch refuses to sample from NaN
        assert "nan" in str(error)
    (first,) = [alert for alert in tracker.alerts if alert.rule.startswith("nan.")][:1]
    assert first.severity == "critical"
    assert first.rule == "nan.weights"
    assert first.step in (2, 3, 4)


def test_a_critical_alert_saves_and_stops(tmp_path: Path) -> None:
    class Break(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kw: Any) -> None:
            if state.global_step == 2:
                next(p for p in model.parameters() if p.grad is not None).grad.view(-1)[0] = float("nan")

    tracker = InMemoryTracker()
    callback = RLDKCallback(trackers=[tracker], on_critical="stop")
    trainer = grpo_trainer(tmp_path, max_steps=10, callbacks=[Break(), callback])
    trainer.train()
    assert trainer.state.global_step == 3
    assert (tmp_path / "checkpoint-3").is_dir()
    assert any(alert.rule.startswith("nan.") for alert in tracker.alerts)
    assert tracker.statuses[-1][1] == "stopped"
