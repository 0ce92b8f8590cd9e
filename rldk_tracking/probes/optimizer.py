"""Gradients, weights and updates, seen at the optimizer's own step, and what each change of the learning rate did."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rldk_tracking.charts.binning import LayersOverSteps, LiveHeatmap
from rldk_tracking.charts.heatmap import Heatmap
from rldk_tracking.charts.spec import GRADIENTS, HEATMAP_TITLES
from rldk_tracking.metrics.layers import FarthestLayers, series
from rldk_tracking.metrics.updates import layer_ratios
from rldk_tracking.probes.base import Probe, StepData, Training
from rldk_tracking.probes.row import merge_scalars, weights_spread
from rldk_tracking.probes.schedule import CHANGE_COLUMNS, Change, ScheduleImpact
from rldk_tracking.ranks import Merged
from rldk_tracking.sources.optimizer import OptimizerSource

CHANGES = 50
"""Rows of the table of changes of the learning rate, the latest."""
HEATMAP_SAVES = 60
"""Columns of the picture of gradients at each save, the latest."""


class OptimizerProbe(Probe):
    """Logs `rldk/grad/*`, `rldk/update/*`, `rldk/weight/*`, `rldk/lr/*` and `rldk/nan/*`, see the key catalogue, a
    table of what the changes of the learning rate did, and pictures of the gradients by layer.

    Args:
        level: "light" (gradients), "standard" (weights, and updates at an interval), "full" (all of it in every step).
    """

    def __init__(self, level: Literal["light", "standard", "full"] = "standard") -> None:
        self.level = level
        self._training = Training()
        self._source: OptimizerSource | None = None
        self._reset()

    def _reset(self) -> None:
        self._schedule = ScheduleImpact()
        self._changes: deque[list[Any]] = deque(maxlen=CHANGES)
        self._gradients, self._ratios = FarthestLayers(), FarthestLayers()
        self._saves: dict[int, dict[str, float]] = {}
        self._over_steps: LiveHeatmap | None = None
        self._step = 0

    def begin(self, training: Training) -> None:
        optimizer = training.optimizer
        if optimizer is None:
            optimizer = getattr(training.trainer, "optimizer", None)
        if optimizer is None:
            return
        self._training = training
        self._source = OptimizerSource(
            optimizer,
            training.model,
            self.level,
            accelerator=getattr(training.trainer, "accelerator", None),
            micro_batch_size=getattr(training.args, "per_device_train_batch_size", None),
            shield=training.shield,
        )
        self._reset()
        self._over_steps = LiveHeatmap(GRADIENTS, LayersOverSteps(HEATMAP_TITLES[GRADIENTS]), training.publish)

    def before_step(self, step: int) -> Mapping[str, float]:
        # Before the next rollout: sampling from weights with a NaN ends in an exception deep in torch.
        broken = 0.0 if self._source is None else float(self._source.check_weights())
        return {"rldk/nan/weights": broken} if broken else {}

    def collect(self, data: StepData) -> None:
        if self._source is not None:
            data.vector = self._source.pending()

    def derive(self, step: int, row: Mapping[str, float], merged: Merged) -> Mapping[str, float]:
        self._step = step
        if self._source is None:
            return {}
        for numbers in merged.probes:
            self._source.see(numbers)
        probes = [self._source.read(numbers) for numbers in merged.probes]
        found = merge_scalars(probes)
        found |= weights_spread(probes) | self._layers(found, step)
        return found | self._change(self._schedule.observe(step, {**row, **found}), step)

    def saved(self, step: int) -> None:
        """The picture of all layers' gradients when a checkpoint was saved; NaN for a layer without a finite one."""
        latest = {} if self._source is None else self._source.latest.get("gradients", {})
        if self._source is None or not latest:
            return
        self._saves[step] = {layer: latest.get(layer, math.nan) for layer in self._source.layout.layers}
        for old in sorted(self._saves)[:-HEATMAP_SAVES]:
            del self._saves[old]
        key = "rldk/checkpoint/gradient_by_layer"
        self._training.publish("log_heatmap", key, Heatmap.of_columns("Gradient norm", self._saves), step)

    def end(self) -> Mapping[str, float]:
        if self._source is None:
            return {}
        last = self._change(self._schedule.finish(), self._step)
        broken = float(self._source.check_weights())
        if broken:
            last["rldk/nan/weights"] = broken
        if self._over_steps is not None:
            self._over_steps.show()
        self._source.detach()
        self._source, self._training = None, Training()
        return last

    def _layers(self, found: Mapping[str, float], step: int) -> dict[str, float]:
        """The series of single layers, of what was measured in this step."""
        latest = {} if self._source is None else self._source.latest
        shown = dict[str, float]()
        if "rldk/grad/norm" in found and "gradients" in latest:
            shown |= series("rldk/grad/layer", self._gradients.take(latest["gradients"]))
            if self._over_steps is not None:
                self._over_steps.add(step, latest["gradients"])
        if "rldk/update/ratio/p50" in found and "updates" in latest and "weights" in latest:
            ratios = layer_ratios(latest["updates"], latest["weights"], latest.get("adapters", {}))
            shown |= series("rldk/update/layer_ratio", self._ratios.take(ratios))
        return shown

    def _change(self, change: Change | None, step: int) -> dict[str, float]:
        """The keys of a change of the learning rate, which goes into the table too."""
        if change is None:
            return {}
        self._changes.append(change.cells())
        rows: Sequence[Sequence[Any]] = list(self._changes)
        self._training.publish("log_table", "rldk/lr/changes", list(CHANGE_COLUMNS), rows, step)
        return change.metrics()
