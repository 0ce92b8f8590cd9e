"""Memory and speed: what the run takes from the machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from rldk_tracking.metrics.resources import ResourceMeter
from rldk_tracking.metrics.throughput import ThroughputMeter
from rldk_tracking.monitors.base import Monitor
from rldk_tracking.run import Run

TOKENS = "length/tokens"
"""The column of response tokens a completion."""


class ResourceMonitor(Monitor):
    """Logs `rldk/resources/*` and `rldk/throughput/*`, see the key catalogue."""

    tasks: ClassVar[tuple[str, ...]] = ("resources",)

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._resources: ResourceMeter | None = None
        self._throughput: ThroughputMeter | None = None

    def begin(self, run: Run, trainer: Any, args: Any, model: Any, optimizer: Any) -> None:
        if run.claim("resources", self):
            self._resources = ResourceMeter(device=run.device)
            self._throughput = ThroughputMeter()

    def collect(self, run: Run, step: int, logs: Mapping[str, Any]) -> None:
        if self._resources is None or self._throughput is None:
            return
        run.add(self._resources.read(step))
        tokens = run.part.rollout.get(TOKENS)
        speed = self._throughput.read(
            step,
            tokens=None if tokens is None else tokens.sum(),
            samples=None if tokens is None else len(tokens),
            rollout_seconds=run.rollout_seconds,
        )
        run.add(speed)

    def end(self, run: Run) -> None:
        self._resources = self._throughput = None
