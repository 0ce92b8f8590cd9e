"""Gradients, weights and updates, seen at the optimizer's own step, and what each change of the learning rate did.

| key | formula |
|---|---|
| rldk/lr/change | learning rate at the change / the one before it |
| rldk/lr/change_step | the step at which it changed |
| rldk/lr/{loss,kl,grad_norm}_response | (mean after - mean before) / its standard error |

Most schedules move the rate a little at every step, and no series can answer to that. A change is what a smooth
schedule does not do, or what it has done by the time that an answer can be seen:

| kind | when |
|---|---|
| rise, drop | the rate moves by a tenth at once, and by three times what it moved the row before |
| warm_up_end | it rose for some rows and rises no more |
| halved | it has sunk to half of what it was at the last change or since, WINDOW rows or more after that |
| zero | it has sunk to 0 |

Compared are up to WINDOW rows on each side, none of them beyond a neighbouring change. The row of the change belongs to
neither: its loss was measured before the new rate moved the weights, or, with several epochs, partly so. The response
is Welch's t (1947), with the error sqrt(s_before^2 / n_before + s_after^2 / n_after). Rows are not quite independent,
as it takes them to be: 2 is little and 5 is much. Whether the series was moving already, the table of the means tells.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rldk_tracking.charts.binning import LayersOverSteps
from rldk_tracking.charts.heatmap import LiveHeatmap, heatmap_svg
from rldk_tracking.charts.spec import GRADIENTS, HEATMAP_TITLES
from rldk_tracking.metrics.layers import FarthestLayers, series
from rldk_tracking.metrics.updates import layer_ratios
from rldk_tracking.probes.base import Probe, StepData, Training
from rldk_tracking.ranks import Merged
from rldk_tracking.row import merge_scalars, weights_spread
from rldk_tracking.sources.optimizer import OptimizerSource

RATE = "rldk/update/learning_rate"
SERIES = {
    "loss": ("rldk/train/loss",),
    "kl": ("rldk/kl/ref_k3", "rldk/kl/ref_k1"),
    "grad_norm": ("rldk/grad/norm",),
}
"""What may answer: the first of its keys that a row has."""
WINDOW = 10
"""Rows on each side of a change."""
LEAST = 3
"""Rows without which a side has no mean."""
JUMP, STEEPER = 0.1, 3.0
"""Share of the larger rate, and multiple of the last move, beyond which a move is a jump."""
GENTLE_RISES = 2
"""Rows in which the rate rose before its standstill ends a warm-up."""

Kind = Literal["rise", "drop", "warm_up_end", "halved", "zero"]


@dataclass(frozen=True, slots=True)
class Side:
    """A series on one side of a change: rows, their mean and their variance (n - 1)."""

    rows: int
    mean: float
    variance: float


@dataclass(frozen=True, slots=True)
class Change:
    """A change of the rate and what followed. A series that was not there, or for too few rows, is in neither side."""

    step: int
    kind: Kind
    rate_before: float
    rate: float
    before: Mapping[str, Side]
    after: Mapping[str, Side]

    def response(self, name: str) -> float | None:
        """In standard errors; None where a side is missing, or where both stand still at different values."""
        if name not in self.before or name not in self.after:
            return None
        before, after = self.before[name], self.after[name]
        moved = after.mean - before.mean
        error = math.sqrt(before.variance / before.rows + after.variance / after.rows)
        return moved / error if error > 0 else 0.0 if moved == 0 else None

    def metrics(self) -> dict[str, float]:
        """The keys that exist for it."""
        found = {"rldk/lr/change_step": float(self.step)}
        if self.rate_before > 0:
            found["rldk/lr/change"] = self.rate / self.rate_before
        responses = {f"rldk/lr/{name}_response": self.response(name) for name in SERIES}
        return found | {key: value for key, value in responses.items() if value is not None}

    def cells(self) -> list[str | float | None]:
        """Its row of the table under CHANGE_COLUMNS."""
        row: list[str | float | None] = [self.step, self.kind, self.rate_before, self.rate]
        for name in SERIES:
            row += [side[name].mean if name in side else None for side in (self.before, self.after)]
            row.append(self.response(name))
        return row


CHANGE_COLUMNS = (
    *("step", "kind", "rate before", "rate"),
    *(f"{name} {what}" for name in SERIES for what in ("before", "after", "response")),
)
"""Of the table of changes."""


class ScheduleImpact:
    """Follows the rows of a run, in memory that does not grow."""

    def __init__(self) -> None:
        self._recent: dict[str, deque[float]] = {name: deque(maxlen=WINDOW) for name in SERIES}
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
                    self._recent[name].append(value)
            self._since += 1
            return self.finish() if self._since >= WINDOW else None
        finished = self.finish()
        self._pending = Change(step, kind, before, rate, self._sides(), {})
        for values in self._recent.values():
            values.clear()
        self._highest, self._since, self._rises = rate, 0, 0
        return finished

    def finish(self) -> Change | None:
        """The change that waits for more rows, as far as it is known; None without one."""
        pending, self._pending = self._pending, None
        if pending is None:
            return None
        return Change(
            pending.step, pending.kind, pending.rate_before, pending.rate, pending.before, after=self._sides()
        )

    def _sides(self) -> dict[str, Side]:
        return {
            name: Side(len(values), statistics.fmean(values), statistics.variance(values))
            for name, values in self._recent.items()
            if len(values) >= LEAST
        }

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
        self._training.publish("log_figure", key, heatmap_svg("Gradient norm", self._saves), step)

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
            ratios = layer_ratios(latest["updates"], latest["weights"])
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
