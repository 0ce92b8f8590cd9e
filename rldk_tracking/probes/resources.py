"""Memory and speed: what the run takes from the machine."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rldk_tracking.metrics.resources import ResourceMeter, ThroughputMeter
from rldk_tracking.probes.base import Probe, StepData, Training
from rldk_tracking.sources.wrapping import Waiting


class ResourceProbe(Probe):
    """Logs `rldk/resources/*` and `rldk/throughput/*`, see the key catalogue."""

    def __init__(self) -> None:
        self._resources: ResourceMeter | None = None
        self._throughput = ThroughputMeter()
        self._waiting: Waiting | None = None

    def begin(self, training: Training) -> None:
        self._resources = ResourceMeter(device=training.device)
        self._throughput = ThroughputMeter()
        accelerator = getattr(training.trainer, "accelerator", None)
        if getattr(accelerator, "num_processes", 1) > 1:
            self._waiting = Waiting(accelerator)

    def before_step(self, step: int) -> Mapping[str, float]:
        if self._resources is not None:
            self._resources.ask_driver()
        return {}

    def collect(self, data: StepData) -> None:
        if self._resources is None:
            return
        mask = None if data.rollout is None else data.rollout.mask
        data.add(self._resources.read(data.step))
        data.add(
            self._throughput.read(
                data.step,
                time.perf_counter(),
                tokens=None if mask is None else mask.sum(),
                samples=None if mask is None else len(mask),
                rollout_seconds=data.rollout_seconds,
            )
        )
        if self._waiting is not None:
            data.waited_seconds += self._waiting.take()

    def end(self) -> Mapping[str, float]:
        if self._waiting is not None:
            self._waiting.detach()
        self._resources = self._waiting = None
        return {}
