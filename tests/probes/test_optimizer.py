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


def test_what_a_change_of_the_learning_rate_did(run: Any, small_training: Any) -> None:
    training = small_training()
    monitor = OptimizerMonitor()
    monitor.begin_within(run, None, None, training.model, training.optimizer)
    for step in range(1, 31):
        training.optimizer.param_groups[0]["lr"] = 1e-3 if step < 16 else 1e-1
        run.add({"rldk/train/loss": training.step()})
        monitor.collect(run, step, {})
        run.finish(step)
    ((step, value),) = run.seen.series["rldk/lr/change_step"]
    assert (step, value) == (26, 16.0)  # told when ten rows have followed
    assert run.seen.series["rldk/lr/change"] == [(26, pytest.approx(100.0))]
    assert run.seen.series["rldk/lr/loss_response"][0][1] > 2  # the steps are too long
    assert "rldk/lr/kl_response" not in run.seen.series
    ((_, columns, rows),) = run.seen.tables["rldk/lr/changes"]
    assert [row[columns.index("kind")] for row in rows] == ["rise"]
    monitor.end(run)


def test_a_change_near_the_end_is_told_at_the_end(run: Any, small_training: Any) -> None:
    training = small_training()
    monitor = OptimizerMonitor()
    monitor.begin_within(run, None, None, training.model, training.optimizer)
    for step in range(1, 11):
        training.optimizer.param_groups[0]["lr"] = 1e-3 if step < 6 else 1e-4
        training.step()
        monitor.collect(run, step, {})
        run.finish(step)
    assert "rldk/lr/change" not in run.seen.series
    monitor.end(run)
    assert run.seen.series["rldk/lr/change"] == [(10, pytest.approx(0.1))]


def test_few_layers_have_series_of_their_own(run: Any) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(30)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    monitor = OptimizerMonitor()
    monitor.begin_within(run, None, None, model, optimizer)
    for step in range(1, 16):
        optimizer.zero_grad()
        sum(layer(torch.ones(4)).square().sum() for layer in model).backward()  # type: ignore[union-attr]
        model[7].weight.grad *= 1e3  # type: ignore[union-attr, operator]
        expected = math.sqrt(sum(float(p.grad.double().square().sum()) for p in model[7].parameters()))
        optimizer.step()
        monitor.collect(run, step, {})
        run.finish(step)
    shown = [key for key in run.seen.series if key.startswith("rldk/grad/layer/")]
    ratios = [key for key in run.seen.series if key.startswith("rldk/update/layer_ratio/")]
    assert "rldk/grad/layer/7" in shown
    assert 4 <= len(shown) <= 8 and 4 <= len(ratios) <= 8
    assert run.seen.series["rldk/grad/layer/7"][-1] == (15, pytest.approx(expected, rel=1e-5))
    monitor.end(run)
