"""Gradients, weights and updates, seen at the optimizer's own step."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from rldk_tracking.metrics.farthest import FarthestLayers, series
from rldk_tracking.metrics.schedule import COLUMNS, Change, ScheduleImpact
from rldk_tracking.metrics.updates import layer_ratios
from rldk_tracking.monitors.base import Monitor
from rldk_tracking.run import Run
from rldk_tracking.sources.optimizer import OptimizerProbe

CHANGES = 50
"""Rows of the table of changes of the learning rate, the latest."""


class OptimizerMonitor(Monitor):
    """Logs `rldk/grad/*`, `rldk/update/*`, `rldk/weight/*`, `rldk/lr/*` and `rldk/nan/*`, see the key catalogue, and a
    table of what the changes of the learning rate did.

    Args:
        level: "light" (gradients), "standard" (weights, and updates at an interval), "full" (all of it in every step).
        options: as for `Monitor`.
    """

    tasks: ClassVar[tuple[str, ...]] = ("optimizer",)

    def __init__(self, *, level: Literal["light", "standard", "full"] = "standard", **options: Any) -> None:
        super().__init__(**options)
        self.level = level
        self._probe: OptimizerProbe | None = None
        self._schedule = ScheduleImpact()
        self._changes: deque[list[Any]] = deque(maxlen=CHANGES)
        self._gradients, self._ratios = FarthestLayers(), FarthestLayers()

    def begin(self, run: Run, trainer: Any, args: Any, model: Any, optimizer: Any) -> None:
        optimizer = optimizer if optimizer is not None else getattr(trainer, "optimizer", None)
        if optimizer is None or not run.claim("optimizer", self):
            return
        self._probe = OptimizerProbe(
            optimizer,
            model,
            self.level,
            accelerator=getattr(trainer, "accelerator", None),
            micro_batch_size=getattr(args, "per_device_train_batch_size", None),
            shield=run.shield,
        )
        run.read_probe = self._probe.read
        run.see_layers, run.layers = self._probe.see, self._probe.latest
        self._schedule = ScheduleImpact()
        self._changes.clear()
        self._gradients, self._ratios = FarthestLayers(), FarthestLayers()
        run.followers.append(lambda step, row: self._tell(run, self._schedule.observe(step, row), step))
        run.followers.append(self._layers)

    def before_step(self, run: Run, step: int) -> None:
        # Before the next rollout: sampling from weights with a NaN ends in an exception deep in torch.
        if self._probe is None:
            return
        broken = float(self._probe.check_weights())
        if broken:
            run.urgent({"rldk/nan/weights": broken}, step)

    def collect(self, run: Run, step: int, logs: Mapping[str, Any]) -> None:
        if self._probe is not None:
            run.read_pending = self._probe.deferred()

    def end(self, run: Run) -> None:
        if self._probe is None:
            return
        step = run.latest_step or 0
        last = self._tell(run, self._schedule.finish(), step)
        broken = float(self._probe.check_weights())
        if broken or last:
            run.conclude({**last, **({"rldk/nan/weights": broken} if broken else {})}, step)
        self._probe.detach()
        self._probe = None

    def _layers(self, step: int, row: Mapping[str, float]) -> dict[str, float]:
        """The series of single layers, of what was measured in this step."""
        if self._probe is None:
            return {}
        latest, found = self._probe.latest, dict[str, float]()
        if "rldk/grad/norm" in row and "gradients" in latest:
            found |= series("rldk/grad/layer", self._gradients.take(latest["gradients"]))
        if "rldk/update/ratio/p50" in row and "updates" in latest and "weights" in latest:
            ratios = layer_ratios(latest["updates"], latest["weights"])
            found |= series("rldk/update/layer_ratio", self._ratios.take(ratios))
        return found

    def _tell(self, run: Run, change: Change | None, step: int) -> dict[str, float]:
        """The keys of a change of the learning rate, which goes into the table too."""
        if change is None:
            return {}
        self._changes.append(change.cells())
        run.table("rldk/lr/changes", list(COLUMNS), list(self._changes), step)
        return change.metrics()
