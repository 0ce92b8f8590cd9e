"""A training loop of the user's own, and what a monitor says to arguments that cannot be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from rldk_tracking.callback import RLDKCallback
from rldk_tracking.demo.trainers import grpo_trainer
from rldk_tracking.isolation import TrainingStopped
from rldk_tracking.monitors.group import GroupMonitor
from rldk_tracking.monitors.ppo import PPOMonitor
from rldk_tracking.rollout import Rollout
from rldk_tracking.run import Run
from rldk_tracking.trackers.memory import InMemoryTracker


def rollout(step: int) -> Rollout:
    g = torch.Generator().manual_seed(step)
    logprobs = -torch.rand(8, 5, generator=g)
    return Rollout(
        mask=torch.ones(8, 5, dtype=torch.bool),
        logprobs=logprobs,
        ref_logprobs=logprobs - 0.01,
        scores=torch.rand(8, generator=g),
        group_ids=torch.arange(8) // 4,
    )


def test_a_loop_of_ones_own_hands_over_its_rollouts() -> None:
    tracker = InMemoryTracker()
    with GroupMonitor(trackers=[tracker], strict=True) as monitor:
        for step in (1, 2, 3):
            row = monitor.observe(rollout(step), step=step, metrics={"rldk/grad/norm": 0.5 * step})
            assert row["rldk/reward/mean"] == pytest.approx(rollout(step).scores.mean().item())
    assert [step for step, _ in tracker.series["rldk/kl/ref_k1"]] == [1, 2, 3]
    assert tracker.series["rldk/kl/ref_k1"][0][1] == pytest.approx(0.01, rel=1e-4)
    assert tracker.series["rldk/grad/norm"] == [(1, 0.5), (2, 1.0), (3, 1.5)]
    assert tracker.statuses[-1][1] == "finished"


def test_a_loop_of_ones_own_can_be_stopped() -> None:
    tracker = InMemoryTracker()
    monitor = RLDKCallback(trackers=[tracker], on_critical="stop", strict=True)
    monitor.observe(rollout(1), step=1)
    with pytest.raises(TrainingStopped, match=r"nan\.weights"):
        monitor.observe(rollout(2), step=2, metrics={"rldk/nan/weights": 3.0})


def test_without_a_tracker_the_rows_go_to_the_named_folder(tmp_path: Path) -> None:
    monitor = GroupMonitor(output_dir=str(tmp_path), strict=True)
    monitor.observe(rollout(1), step=1)
    monitor.close()
    (file,) = tmp_path.rglob("*.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert any("rldk/reward/mean" in str(line) for line in lines)


def test_a_wrong_argument_is_named_at_construction() -> None:
    with pytest.raises(ValueError, match="on_critical"):
        RLDKCallback(on_critical="panic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="level"):
        RLDKCallback(level="enormous")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_overhead"):
        RLDKCallback(max_overhead=0)
    with pytest.raises(ValueError, match="kl_threshold"):
        PPOMonitor(kl_threshold=-1)
    with pytest.raises((ValueError, KeyError), match="kl.hihg"):
        RLDKCallback(overrides={"kl.hihg": {"threshold": 1.0}})
    with pytest.raises(TypeError, match="monitors must hold"):
        RLDKCallback(monitors=["ppo"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="https"):
        RLDKCallback(slack="http://example.com/hook")


def test_goals_of_the_users_own() -> None:
    from rldk_tracking import CustomRLDKCallback

    tracker = InMemoryTracker()
    benchmarks = {"target_reward": 0.1, "max_kl_divergence": 0.001}
    callback = CustomRLDKCallback(trackers=[tracker], performance_benchmarks=benchmarks, strict=True)
    for step in range(1, 7):
        callback.observe(rollout(step), step=step)
    callback.close()
    assert {"goal.target_reward", "goal.max_kl_divergence"} <= {alert.rule for alert in tracker.alerts}
    with pytest.raises(ValueError, match="performance_benchmarks knows no"):
        CustomRLDKCallback(performance_benchmarks={"reward": 1.0})


def test_a_trainer_that_logs_has_waited_for_its_device(tmp_path: Path) -> None:
    seen = []

    class Watching(PPOMonitor):
        def collect(self, run: Run, step: int, logs: Mapping[str, Any]) -> None:
            seen.append((step, run.has_waited))
            super().collect(run, step, logs)

    monitor = Watching(trackers=[InMemoryTracker()])
    grpo_trainer(tmp_path, max_steps=4, logging_steps=2, callbacks=[monitor]).train()
    assert seen == [(1, False), (2, True), (3, False), (4, True)]
