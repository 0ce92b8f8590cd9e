from __future__ import annotations

import os
import time
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from rldk_tracking.metrics.resources import ResourceMeter
from rldk_tracking.probes.base import StepData, Training
from rldk_tracking.probes.resources import ResourceProbe
from rldk_tracking.rollout import Rollout


def collected(probe: ResourceProbe, step: int, **fields: Any) -> StepData:
    data = StepData(step, **fields)
    probe.collect(data)
    return data


def numbers(data: StepData) -> dict[str, float]:
    return {key: float(value) for key, value in data.scalars.items()}


def test_memory_and_speed_of_this_process() -> None:
    probe = ResourceProbe()
    probe.begin(Training())
    rollout = Rollout(mask=torch.tensor([[True, True], [True, False], [True, True]]))
    first = numbers(collected(probe, 1, rollout=rollout))
    time.sleep(0.01)
    second = numbers(collected(probe, 2, rollout=rollout))
    resident = psutil.Process(os.getpid()).memory_info().rss / 2**30
    assert second["rldk/resources/host_rss_gib"] == pytest.approx(resident, rel=0.2)
    assert "rldk/throughput/step_seconds" not in first, "a step's time is that between two ends"
    seconds = second["rldk/throughput/step_seconds"]
    assert 0.01 <= seconds < 5
    assert second["rldk/throughput/tokens_per_second"] == pytest.approx(5 / seconds, rel=1e-3)
    assert second["rldk/throughput/samples_per_second"] == pytest.approx(3 / seconds, rel=1e-3)
    assert [key for key in second if "gpu" in key] == [], "there is no GPU to tell of"


def test_how_much_of_a_step_is_sampling() -> None:
    probe = ResourceProbe()
    probe.begin(Training())
    collected(probe, 1)
    time.sleep(0.01)
    row = numbers(collected(probe, 2, rollout_seconds=0.005))
    share = row["rldk/throughput/rollout_fraction"]
    assert share == pytest.approx(0.005 / row["rldk/throughput/step_seconds"], rel=1e-3)
    assert "rldk/throughput/tokens_per_second" not in row, "there was no rollout"


def test_the_driver_is_asked_as_a_step_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(ResourceMeter, "ask_driver", lambda self: calls.append(1))
    probe = ResourceProbe()
    assert probe.before_step(0) == {} and calls == [], "before it has begun"
    probe.begin(Training())
    assert probe.before_step(0) == {}
    assert calls == [1]
    collected(probe, 1)
    assert calls == [1]


def test_the_device_of_the_training_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    devices: list[Any] = []

    class Meter(ResourceMeter):
        def __init__(self, device: Any = None) -> None:
            devices.append(device)
            super().__init__(None)

    monkeypatch.setattr("rldk_tracking.probes.resources.ResourceMeter", Meter)
    ResourceProbe().begin(Training(device=torch.device("cuda", 1)))
    assert devices == [torch.device("cuda", 1)]


class Accelerator:
    """As accelerate's, of several processes."""

    def __init__(self, processes: int) -> None:
        self.num_processes = processes

    def gather(self, tensor: Any) -> Any:
        time.sleep(0.02)
        return tensor


def test_waiting_for_other_ranks_is_counted_until_training_ends() -> None:
    accelerator = Accelerator(2)
    probe = ResourceProbe()
    probe.begin(Training(trainer=SimpleNamespace(accelerator=accelerator)))
    accelerator.gather(1)
    assert collected(probe, 1, waited_seconds=1.0).waited_seconds >= 1.02
    assert collected(probe, 2).waited_seconds == 0.0
    assert probe.end() == {}
    assert "gather" not in vars(accelerator)


def test_alone_nothing_is_wrapped() -> None:
    accelerator = Accelerator(1)
    probe = ResourceProbe()
    probe.begin(Training(trainer=SimpleNamespace(accelerator=accelerator)))
    assert "gather" not in vars(accelerator)
    accelerator.gather(1)
    assert collected(probe, 1).waited_seconds == 0.0


def test_before_and_after_a_training_nothing_is_measured() -> None:
    probe = ResourceProbe()
    assert collected(probe, 1).scalars == {}
    probe.begin(Training())
    collected(probe, 1)
    probe.end()
    assert collected(probe, 2).scalars == {}
    probe.begin(Training())
    assert "rldk/throughput/step_seconds" not in collected(probe, 1).scalars, "the clock begins anew"
