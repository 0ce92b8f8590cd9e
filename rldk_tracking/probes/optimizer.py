"""Gradients, weights and updates, seen at the optimizer's own step, and what each change of the learning rate did.

Keys, read by `rldk_tracking.metrics.keys`:

    rldk/grad/layer/<layer> | 1 | optimizer
        Gradient of one of the few layers farthest from the rest, before clipping.
        = Euclidean norm, mean over the optimizer steps; of the layers with the largest running mean of |log(norm /
        median over layers)|
    rldk/update/layer_ratio/<layer> | 1 | optimizer
        How far one optimizer step moves one of the few layers farthest from the rest.
        = |change| / |weights|, as of rldk/update/ratio

A hundred layers as a hundred series help nobody, and those farthest from the rest would be different ones in each step.
So a layer that is shown stays shown: FIRST layers are chosen once SETTLED measurements have been seen, and the rest of
the SHOWN places is kept for layers that go astray later. All layers are in the quantiles, and in the pictures that go
with each checkpoint. Dots in names become underscores, since a dot is a path to W&B.
"""

from __future__ import annotations

import math
import statistics
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch

from rldk_tracking.charts.binning import LayersOverSteps, LiveHeatmap
from rldk_tracking.charts.heatmap import Heatmap
from rldk_tracking.charts.spec import GRADIENTS, HEATMAP_TITLES
from rldk_tracking.metrics.layers import frozen_fraction
from rldk_tracking.metrics.updates import layer_ratios
from rldk_tracking.probes.base import Probe, StepData, Training
from rldk_tracking.probes.schedule import CHANGE_COLUMNS, JUMPS, LEAST, SERIES, WINDOW, Change, Kind, Side
from rldk_tracking.probes.steps import merge_scalars, weights_spread
from rldk_tracking.ranks import Merged
from rldk_tracking.sources.optimizer import OptimizerSource

CHANGES = 50
"""Rows of the table of changes of the learning rate, the latest."""
HEATMAP_SAVES = 60
"""Columns of the picture of gradients at each save, the latest."""


RATE = "rldk/update/learning_rate"
JUMP, STEEPER = 0.1, 3.0
"""Share of the larger rate, and multiple of the last move, beyond which a move is a jump."""
GENTLE_RISES = 2
"""Rows in which the rate rose before its standstill ends a warm-up."""
SHOWN, FIRST = 8, 4
"""Places, and those that are taken at the beginning."""
SETTLED = 5
"""Measurements before the first are chosen: in the first step half of an adapter has no gradient yet."""
MEMORY = 0.8
"""Weight of the past in a layer's distance."""
FARTHEST = 20.0
"""Distance of a layer at 0, and the largest that counts: e^20."""
ASTRAY = math.log(4.0)
"""How much farther than a layer that is shown another must be to take one of the places that are left."""


class FarthestLayers:
    """Chooses layers by the running mean of |log(value / median over layers)|. Memory: one number a layer.

    >>> layers = FarthestLayers()
    >>> for _ in range(SETTLED):
    ...     shown = layers.take({str(number): 1.0 for number in range(20)} | {"20": 9.0})
    >>> "20" in shown, len(shown)
    (True, 4)
    """

    def __init__(self) -> None:
        self._distances: dict[str, float] = {}
        self._seen = 0
        self.shown: list[str] = []

    def take(self, values: Mapping[str, float]) -> dict[str, float]:
        """What is shown of one measurement: layer to value. A value that is not a number >= 0 is left out."""
        known = {layer: value for layer, value in values.items() if math.isfinite(value) and value >= 0}
        positive = [value for value in known.values() if value > 0]
        if not positive:
            return {layer: known[layer] for layer in self.shown if layer in known}
        middle = math.log(statistics.median(positive))
        for layer, value in known.items():
            distance = min(FARTHEST, abs(math.log(value) - middle)) if value > 0 else FARTHEST
            before = self._distances.get(layer, distance)
            self._distances[layer] = MEMORY * before + (1 - MEMORY) * distance
        self._seen += 1
        if self._seen >= SETTLED:
            self._choose()
        return {layer: known[layer] for layer in self.shown if layer in known}

    def _choose(self) -> None:
        by_distance = sorted(self._distances, key=lambda layer: -self._distances[layer])
        if len(by_distance) <= SHOWN:
            self.shown = list(self._distances)
        elif not self.shown:
            self.shown = by_distance[:FIRST]
        else:
            least = min(self._distances[layer] for layer in self.shown)
            astray = [layer for layer in by_distance if self._distances[layer] > least + ASTRAY]
            new = [layer for layer in astray if layer not in self.shown]
            self.shown += new[: SHOWN - len(self.shown)]


def series(prefix: str, values: Mapping[str, float]) -> dict[str, float]:
    """Layer to value as keys."""
    return {f"{prefix}/{layer.replace('.', '_')}": value for layer, value in values.items()}


class ScheduleImpact:
    """Follows the rows of a run, in memory that does not grow."""

    def __init__(self) -> None:
        self._recent: dict[str, deque[tuple[int, float]]] = {name: deque(maxlen=2 * WINDOW) for name in SERIES}
        self._rate: float | None = None
        self._move: float | None = None
        self._rises = 0
        self._highest = 0.0
        self._since = 0
        self._pending: Change | None = None

    def observe(self, step: int, row: Mapping[str, float]) -> Change | None:
        """A row of the run; gives back a change once enough rows have followed it, or the next change has come."""
        rate = row.get(RATE)
        before, kind = self._rate, None if rate is None else self._kind(rate)
        if rate is None or before is None or kind is None:
            for name, keys in SERIES.items():
                value = next((row[key] for key in keys if key in row), None)
                if value is not None and math.isfinite(value):
                    self._recent[name].append((step, value))
            self._since += 1
            return self.finish() if self._since >= WINDOW else None
        finished = self.finish()
        self._pending = Change(step, kind, before, rate, self._sides(step, 2 if kind in JUMPS else 1), {})
        for values in self._recent.values():
            values.clear()
        self._highest, self._since, self._rises = rate, 0, 0
        return finished

    def finish(self) -> Change | None:
        """The change that waits for more rows, as far as it is known; None without one."""
        pending, self._pending = self._pending, None
        if pending is None:
            return None
        return replace(pending, after=self._sides(pending.step))

    def _sides(self, change: int, windows: int = 1) -> dict[str, Side]:
        latest = {name: list(points)[-windows * WINDOW :] for name, points in self._recent.items()}
        return {name: Side.of(points, change) for name, points in latest.items() if len(points) >= LEAST}

    def _kind(self, rate: float) -> Kind | None:
        """Whether the rate that follows those so far is a change."""
        before, last_move, rises = self._rate, self._move, self._rises
        self._rate, self._highest = rate, max(self._highest, rate)
        if before is None:
            return None
        move = self._move = rate - before
        self._rises = rises + 1 if move > 0 else 0
        if last_move is None:
            return None
        if abs(move) > JUMP * max(rate, before) and abs(move) > STEEPER * abs(last_move):
            return "rise" if move > 0 else "drop" if rate > 0 else "zero"
        if rises >= GENTLE_RISES and move <= 0:
            return "warm_up_end"
        if move < 0 and rate <= self._highest / 2 and self._since >= WINDOW:
            return "halved" if rate > 0 else "zero"
        return None


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
        self._of_trainer: Callable[[], Any] = lambda: None
        """The trainer's optimizer when this one was looked at, which the event may name in another wrapping."""
        self._frozen: float | None = None
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
        self._look_at(optimizer)
        self._reset()
        if isinstance(training.model, torch.nn.Module):
            self._frozen = frozen_fraction(training.model)
        self._over_steps = LiveHeatmap(GRADIENTS, LayersOverSteps(HEATMAP_TITLES[GRADIENTS]), training.publish)

    def _look_at(self, optimizer: Any) -> None:
        training = self._training
        of_trainer = getattr(training.trainer, "optimizer", None)
        self._of_trainer = (lambda: None) if of_trainer is None else weakref.ref(of_trainer)
        self._source = OptimizerSource(
            optimizer,
            training.model,
            self.level,
            accelerator=getattr(training.trainer, "accelerator", None),
            micro_batch_size=getattr(training.args, "per_device_train_batch_size", None),
            shield=training.shield,
        )

    def before_step(self, step: int) -> Mapping[str, float]:
        present, known = getattr(self._training.trainer, "optimizer", None), self._of_trainer()
        if self._source is not None and known is not None and present is not None and present is not known:
            self._source.detach()  # somebody has put another one in its place
            self._look_at(present)
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
        if self._frozen is not None:
            found["rldk/grad/frozen_fraction"], self._frozen = self._frozen, None
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
