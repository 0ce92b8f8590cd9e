from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from rldk_tracking.monitors.optimizer import OptimizerMonitor


def test_gradients_of_a_step_are_in_its_row(run: Any, small_training: Any) -> None:
    training = small_training()
    monitor = OptimizerMonitor()
    monitor.begin_within(run, None, None, training.model, training.optimizer)
    for step in (1, 2):
        training.step()
        expected = math.sqrt(sum(float(p.grad.double().square().sum()) for p in training.model.parameters()))
        monitor.collect(run, step, {})
        run.finish(step)
        assert run.latest["rldk/grad/norm"] == pytest.approx(expected, rel=1e-6)
        assert run.latest["rldk/nan/gradients"] == 0.0
        assert run.latest["rldk/update/learning_rate"] == pytest.approx(1e-2)
    monitor.end(run)
    assert not training.optimizer._optimizer_step_pre_hooks
    assert not training.optimizer._optimizer_step_post_hooks


def test_a_nan_weight_is_said_before_the_next_rollout(run: Any, small_training: Any) -> None:
    training = small_training()
    monitor = OptimizerMonitor()
    monitor.begin_within(run, None, None, training.model, training.optimizer)
    monitor.before_step(run, 3)
    assert run.seen.alerts == []
    with torch.no_grad():
        training.model.weight[0, 0] = float("nan")
    monitor.before_step(run, 3)
    (alert,) = run.seen.alerts
    assert (alert.rule, alert.severity, alert.step) == ("nan.weights", "critical", 3)


def test_two_do_not_measure_twice(run: Any, small_training: Any) -> None:
    training = small_training()
    first, second = OptimizerMonitor(), OptimizerMonitor()
    for monitor in (first, second):
        monitor.begin_within(run, None, None, training.model, training.optimizer)
    assert len(training.optimizer._optimizer_step_pre_hooks) == 1
    second.collect(run, 1, {})
    assert run.part.probe is None


def test_without_an_optimizer_it_stays_silent(run: Any) -> None:
    monitor = OptimizerMonitor()
    monitor.begin_within(run, None, None, None, None)
    monitor.before_step(run, 1)
    monitor.collect(run, 1, {})
    run.finish(1)
    assert run.seen.series == {}
