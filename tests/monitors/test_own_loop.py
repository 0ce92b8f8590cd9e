"""A training loop of the user's own, which hands over its steps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rldk_tracking import CustomRLDKCallback, RLDKCallback
from rldk_tracking.isolation import TrainingStopped
from rldk_tracking.messages.seen import SEEN
from rldk_tracking.monitors.base import Monitor
from rldk_tracking.monitors.group import GroupMonitor
from rldk_tracking.rollout import Rollout
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
            row = monitor.observe(rollout(step), step=step, metrics={"rldk/grad/norm": 0.5 * step, "loss": 2.0})
            assert row["rldk/reward/mean"] == pytest.approx(rollout(step).scores.mean().item())  # type: ignore[union-attr]
            assert monitor.run is not None and row == monitor.run.latest
    assert [step for step, _ in tracker.series["rldk/kl/ref_k1"]] == [1, 2, 3]
    assert tracker.series["rldk/kl/ref_k1"][0][1] == pytest.approx(0.01, rel=1e-4)
    assert tracker.series["rldk/grad/norm"] == [(1, 0.5), (2, 1.0), (3, 1.5)]
    assert tracker.series["rldk/train/loss"] == [(1, 2.0), (2, 2.0), (3, 2.0)], "a trainer's names are known"
    assert tracker.statuses[-1] == (3, "finished")


def test_a_step_with_nothing_in_it_has_no_row() -> None:
    monitor = Monitor(trackers=[InMemoryTracker()], strict=True)
    assert monitor.observe(step=1, metrics={"loss": 1.0})["rldk/train/loss"] == 1.0
    assert monitor.observe(step=2) == {}
    monitor.close()


def test_a_loop_that_goes_on_after_its_end_has_a_new_run() -> None:
    tracker = InMemoryTracker()
    monitor = GroupMonitor(trackers=[tracker], strict=True)
    monitor.close()
    monitor.observe(rollout(1), step=1)
    first = monitor.run
    monitor.close()
    monitor.observe(rollout(1), step=1)
    assert monitor.run is not first
    monitor.close()
    assert [status for _, status in tracker.statuses] == ["running", "finished"] * 2


def test_a_loop_of_ones_own_can_be_stopped() -> None:
    tracker = InMemoryTracker()
    monitor = RLDKCallback(trackers=[tracker], on_critical="stop", strict=True)
    monitor.observe(rollout(1), step=1)
    with pytest.raises(TrainingStopped, match=r"nan\.weights"):
        monitor.observe(rollout(2), step=2, metrics={"rldk/nan/weights": 3.0})
    assert tracker.statuses[-1] == (2, "stopped")


def test_a_fault_of_ours_leaves_the_loop_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monitor = GroupMonitor(trackers=[InMemoryTracker()])
    monkeypatch.setattr("rldk_tracking.run.Run.finish", lambda self, data: 1 // 0)
    assert monitor.observe(rollout(1), step=1) == {}
    monitor.close()


def test_rldk_tracking_run_hears_that_it_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SEEN, str(tmp_path / "seen"))
    with GroupMonitor(trackers=[InMemoryTracker()]) as monitor:
        monitor.observe(rollout(1), step=1)
    assert (tmp_path / "seen").read_text() == "training\n"


def test_goals_of_the_users_own() -> None:
    tracker = InMemoryTracker()
    benchmarks = {"target_reward": 0.1, "max_kl_divergence": 0.001}
    callback = CustomRLDKCallback(trackers=[tracker], performance_benchmarks=benchmarks, strict=True)
    for step in range(1, 7):
        callback.observe(rollout(step), step=step)
    callback.close()
    assert {"goal.target_reward", "goal.max_kl_divergence"} <= {alert.rule for alert in tracker.alerts}
    assert tracker.series["rldk/kl/limit"][0] == (1, 0.001)
    with pytest.raises(ValueError, match="performance_benchmarks knows no"):
        CustomRLDKCallback(performance_benchmarks={"reward": 1.0})
