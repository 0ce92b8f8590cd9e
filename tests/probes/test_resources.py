from __future__ import annotations

import os
import threading
from typing import Any

import psutil
import pytest
import torch

from rldk_tracking.metrics.resources import ResourceMeter
from rldk_tracking.monitors.resources import ResourceMonitor
from rldk_tracking.rollout import Rollout


def test_memory_and_speed_of_this_process(run: Any) -> None:
    monitor = ResourceMonitor()
    monitor.begin_within(run, None, None, None, None)
    for step in (1, 2):
        run.observe(Rollout(mask=torch.ones(4, 5, dtype=torch.bool)))
        monitor.collect(run, step, {})
        run.finish(step)
    resident = psutil.Process(os.getpid()).memory_info().rss / 2**30
    assert run.latest["rldk/resources/host_rss_gib"] == pytest.approx(resident, rel=0.2)
    seconds = run.latest["rldk/throughput/step_seconds"]
    assert run.latest["rldk/throughput/tokens_per_second"] == pytest.approx(20 / seconds, rel=0.05)
    assert run.latest["rldk/throughput/samples_per_second"] == pytest.approx(4 / seconds, rel=0.05)
    assert "rldk/resources/gpu_memory_gib" not in run.latest, "there is no GPU to tell of"
    assert [step for step, _ in run.seen.series["rldk/throughput/step_seconds"]] == [2]


def test_two_do_not_measure_twice(run: Any) -> None:
    first, second = ResourceMonitor(), ResourceMonitor()
    for monitor in (first, second):
        monitor.begin_within(run, None, None, None, None)
    second.collect(run, 1, {})
    run.finish(1)
    assert run.latest == {}


@pytest.mark.parametrize("asks", [False, True])
def test_the_driver_is_asked_beside_the_step_that_begins(run: Any, monkeypatch: pytest.MonkeyPatch, asks: bool) -> None:
    threads = []
    monkeypatch.setattr(ResourceMeter, "has_driver", asks)
    monkeypatch.setattr(ResourceMeter, "ask_driver", lambda self: threads.append(threading.current_thread().name))
    monitor = ResourceMonitor()
    monitor.begin_within(run, None, None, None, None)
    run.settings.strict = False
    monitor.before_step(run, 0)
    assert run.latest == {}
    assert threads == ["rldk-judge"] * asks
    monkeypatch.undo()
    assert not ResourceMeter().has_driver
