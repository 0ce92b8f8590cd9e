"""Several monitors in one trainer: one run, and what each asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from rldk_tracking import CheckpointMonitor, RLDKCallback
from rldk_tracking.demo.trainers import grpo_trainer
from rldk_tracking.monitors.ppo import PPOMonitor
from rldk_tracking.probes.optimizer import OptimizerProbe
from rldk_tracking.probes.rollouts import RolloutProbe
from rldk_tracking.trackers.memory import InMemoryTracker
from tests.monitors.test_base import NAN, Told, Watching, small_trainer

pytestmark = pytest.mark.slow


def test_several_monitors_in_one_trainer_have_one_run(tmp_path: Path) -> None:
    tracker, other = InMemoryTracker(), InMemoryTracker()
    first = PPOMonitor(trackers=[tracker], strict=True)
    second = RLDKCallback(trackers=[tracker, other], overrides={"kl.high": {"threshold": 1e-9}}, on_critical="stop")
    third = CheckpointMonitor()
    grpo_trainer(tmp_path, max_steps=3, callbacks=[first, second, third]).train()
    assert first.run is second.run is third.run is not None
    for key, points in tracker.series.items():
        assert len({step for step, _ in points}) == len(points), key
    assert [step for step, _ in tracker.series["rldk/reward/mean"]] == [1, 2, 3]
    assert other.series.keys() == tracker.series.keys()
    assert {"rldk/grad/norm", "rldk/resources/host_rss_gib"} <= tracker.series.keys(), "of the second's probes"
    assert first.metrics.rollout_reward_mean == second.metrics.reward_mean == tracker.series["rldk/reward/mean"][-1][1]
    assert third.metrics.gradient_norm == tracker.series["rldk/grad/norm"][-1][1]
    assert tracker.series["rldk/kl/limit"] == [(1, 1e-9), (2, 1e-9), (3, 1e-9)], "the second's override counts"
    assert first.alerts == second.alerts == third.alerts
    assert [type(probe) for probe in first.run.probes].count(RolloutProbe) == 1
    assert [type(probe) for probe in first.run.probes].count(OptimizerProbe) == 1
    assert first._settings.overrides == {} and first._settings.trackers == [tracker], "what one asks for stays its own"


def test_both_hear_of_an_alert_and_the_second_may_stop(tmp_path: Path) -> None:
    first = Watching(Told({2: {NAN: 1.0}}), trackers=[InMemoryTracker()], strict=True)
    second = PPOMonitor(on_critical="stop")
    trainer = small_trainer(tmp_path, [first, second])
    trainer.train()
    assert trainer.state.global_step == 2
    assert [alert.rule for alert in second.alerts] == [alert.rule for alert in first.alerts] == ["nan.weights"]


def test_monitors_within_the_callback_share_its_run(tmp_path: Path) -> None:
    tracker = InMemoryTracker()
    ppo, checkpoints = PPOMonitor(kl_threshold=0.125), CheckpointMonitor(close_timeout=60.0)
    callback = RLDKCallback(trackers=[tracker], monitors=[ppo, checkpoints], strict=True)
    grpo_trainer(tmp_path, max_steps=2, save_strategy="steps", save_steps=2, callbacks=[callback]).train()
    assert ppo.run is checkpoints.run is callback.run
    assert ppo.metrics.rollout_reward_mean == callback.metrics.reward_mean is not None
    assert ppo.metrics.step == 2 and tracker.series["rldk/kl/limit"] == [(1, 0.125), (2, 0.125)]
    assert checkpoints.history.keys() == {2} and checkpoints.metrics.score is not None
    assert [key for key in tracker.series if key.startswith("rldk/resources/")] == [], "nobody asked for it"
    assert ppo.alerts == callback.alerts


def test_a_training_that_was_broken_off_is_closed_by_the_next(tmp_path: Path) -> None:
    class Break(TrainerCallback):  # type: ignore[misc]
        at = 2

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == self.at:
                raise KeyboardInterrupt

    tracker, breaks = InMemoryTracker(), Break()
    callbacks = [breaks, Watching(trackers=[tracker]), PPOMonitor()]
    trainer = small_trainer(tmp_path, callbacks)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    breaks.at = -1
    trainer.train()
    assert [status for _, status in tracker.statuses] == ["running", "crashed", "running", "finished"]
    assert [step for step, _ in tracker.series["rldk/train/loss"]] == [1, 1, 2, 3, 4]


def test_an_output_dir_each_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    callbacks = [PPOMonitor(trackers=[InMemoryTracker()], output_dir=tmp_path / "a"), CheckpointMonitor(output_dir="b")]
    small_trainer(tmp_path, callbacks).train()
    assert caplog.text.count("a run has one journal") == 1 and "not in 'b'" in caplog.text
    assert list((tmp_path / "a").glob("*.jsonl"))
