"""Memory and speed: what the run takes from the machine."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from rldk_tracking.metrics.resources import ResourceMeter
from rldk_tracking.metrics.throughput import ThroughputMeter
from rldk_tracking.monitors.base import Monitor
from rldk_tracking.run import Run
from rldk_tracking.sources.waiting import Waiting


class ResourceMonitor(Monitor):
    """Logs `rldk/resources/*` and `rldk/throughput/*`, see the key catalogue."""

    tasks: ClassVar[tuple[str, ...]] = ("resources",)

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._resources: ResourceMeter | None = None
        self._throughput: ThroughputMeter | None = None
        self._waiting: Waiting | None = None

    def begin(self, run: Run, trainer: Any, args: Any, model: Any, optimizer: Any) -> None:
        if run.claim("resources", self):
            self._resources = ResourceMeter(device=run.device)
            self._throughput = ThroughputMeter()
            accelerator = getattr(trainer, "accelerator", None)
            if getattr(accelerator, "num_processes", 1) > 1:
                self._waiting = Waiting(accelerator)

    def before_step(self, run: Run, step: int) -> None:
        if self._resources is not None and self._resources.has_driver:
            run.later(self._resources.ask_driver)  # takes milliseconds, and beside a step it tells of the step

    def collect(self, run: Run, step: int, logs: Mapping[str, Any]) -> None:
        if self._resources is None or self._throughput is None:
            return
        # The rollout was read before, as a rule.
        resources, throughput, observation = self._resources, self._throughput, run.observation
        now, rollout_seconds = time.perf_counter(), run.rollout_seconds

        def speed() -> dict[str, float | Tensor]:
            mask = None if observation.rollout is None else observation.rollout.mask
            return throughput.read(
                step,
                now,
                tokens=None if mask is None else mask.sum(),
                samples=None if mask is None else len(mask),
                rollout_seconds=rollout_seconds,
            )

        run.measure(lambda: resources.read(step))
        run.measure(speed)
        if self._waiting is not None:
            run.waited_seconds += self._waiting.take()

    def end(self, run: Run) -> None:
        if self._waiting is not None:
            self._waiting.detach()
        self._resources = self._throughput = self._waiting = None
