"""accelerate's own Accelerator, with our tracker among its trackers."""

from __future__ import annotations

import doctest
from typing import Any

import pytest
import torch

pytest.importorskip("accelerate")

from accelerate import Accelerator

from rldk_tracking.integrations import accelerate as module
from rldk_tracking.integrations.accelerate import RLDKTracker
from rldk_tracking.isolation import TrainingStopped
from rldk_tracking.rollout import Rollout
from rldk_tracking.trackers.memory import InMemoryTracker


def accelerator_with(memory: InMemoryTracker, **options: Any) -> Accelerator:
    accelerator = Accelerator(log_with=[RLDKTracker(trackers=[memory], strict=True, **options)], cpu=True)
    accelerator.init_trackers("tiny", config={"learning_rate": 0.25, "model": "tiny"})
    return accelerator


def test_what_a_loop_logs_is_judged() -> None:
    memory = InMemoryTracker()
    accelerator = accelerator_with(memory)
    rollout = Rollout(mask=torch.ones(4, 2), scores=torch.arange(4.0), group_ids=torch.tensor([0, 0, 1, 1]))
    accelerator.log({"loss": 1.0, "note": "first"}, step=1, log_kwargs={"rldk": {"rollout": rollout}})
    accelerator.log({"loss": float("nan")})
    accelerator.log({"eval_loss": 0.5}, step=2)
    callback = accelerator.get_tracker("rldk", unwrap=True)
    assert [(alert.rule, alert.step) for alert in callback.alerts] == [("nan.loss", 2)]
    assert "learning_rate 0.25" in callback.alerts[0].advice
    accelerator.end_training()
    assert memory.series["rldk/reward/mean"] == [(1, 1.5)]
    assert memory.series["rldk/reward/group_tied_fraction"] == [(1, 0.0)]
    assert memory.series["rldk/eval/loss"] == [(2, 0.5)], "one without a number follows the last"
    assert memory.statuses[-1] == (2, "finished")


def test_an_alert_can_end_the_loop() -> None:
    memory = InMemoryTracker()
    accelerator = accelerator_with(memory, on_critical="stop")
    with pytest.raises(TrainingStopped, match=r"nan\.loss"):
        accelerator.log({"loss": float("nan")}, step=1)
    accelerator.end_training()
    assert memory.statuses[-1] == (1, "stopped")


def test_its_example_runs() -> None:
    assert doctest.testmod(module).failed == 0
