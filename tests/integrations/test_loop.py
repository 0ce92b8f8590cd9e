"""One process that logs for its whole job."""

from __future__ import annotations

import pytest
import torch

from rldk_tracking.integrations.loop import LoopCallback
from rldk_tracking.rollout import Rollout
from rldk_tracking.trackers.memory import InMemoryTracker


def test_no_other_rank_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def join(*_: object) -> None:
        raise AssertionError("it looks for other ranks")

    monkeypatch.setattr("rldk_tracking.metrics.process_group.join", join)
    memory = InMemoryTracker()
    with LoopCallback(trackers=[memory], monitors=[], strict=True) as callback:
        callback.observe(step=1, metrics={"reward": 0.5})
    assert memory.series["rldk/reward/mean"] == [(1, 0.5)]


def test_alerts_quote_the_settings_of_the_loop() -> None:
    callback = LoopCallback(trackers=[InMemoryTracker()], monitors=[], strict=True)
    callback.quote({"learning_rate": 0.25, "model": "tiny"})
    callback.observe(step=1, metrics={"loss": float("nan")})
    (alert,) = callback.alerts
    assert "learning_rate 0.25" in alert.advice
    callback.close()


def test_numbers_of_a_step_that_has_its_row_are_added_to_it() -> None:
    memory = InMemoryTracker()
    with LoopCallback(trackers=[memory], monitors=[], strict=True) as callback:
        rollout = Rollout(mask=torch.ones(4, 2), scores=torch.arange(4.0))
        callback.observe(rollout, step=1, metrics={"loss": 1.0})
        callback.observe(step=1, metrics={"eval_loss": 0.5, "loss": 9.0})
        callback.observe(step=2, metrics={"loss": 2.0})
        callback.observe(step=1, metrics={"eval_reward": 0.25})
    assert memory.series["rldk/train/loss"] == [(1, 1.0), (2, 2.0)], "what a step has stays"
    assert memory.series["rldk/eval/loss"] == [(1, 0.5)]
    assert memory.series["rldk/eval/reward"] == [(1, 0.25)]
    assert memory.series["rldk/reward/mean"] == [(1, 1.5)]
    assert [step for step, _ in memory.series["rldk/alerts/firing"]] == [1, 2], "and is judged once"
