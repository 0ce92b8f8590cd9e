"""Saved weights in one callback, alone or with others."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rldk_tracking.checkpoint.findings import LEVELS
from rldk_tracking.checkpoint.score import Trend
from rldk_tracking.messages.arguments import flag, folder, number, word
from rldk_tracking.monitors.base import Monitor
from rldk_tracking.monitors.view import Snapshot, of
from rldk_tracking.probes.base import Probe
from rldk_tracking.probes.checkpoints import CheckpointProbe
from rldk_tracking.probes.optimizer import OptimizerProbe


@dataclass(frozen=True, slots=True)
class CheckpointMetrics(Snapshot):
    """The latest values of saved weights; units and formulas stand in the key catalogue.

    Examples:
        >>> from rldk_tracking import CheckpointMetrics
        >>> metrics = CheckpointMetrics.from_row(7, {"rldk/checkpoint/score": 0.5})
        >>> metrics.step, metrics.score
        (7, 0.5)
    """

    score: float | None = of("rldk/checkpoint/score")
    nonfinite_tensors: float | None = of("rldk/checkpoint/nonfinite")
    corrupt_files: float | None = of("rldk/checkpoint/corrupt")
    missing: float | None = of("rldk/checkpoint/incomplete")
    parameter_drift: float | None = of("rldk/checkpoint/drift")
    parameter_drift_previous: float | None = of("rldk/checkpoint/drift_previous")
    unchanged: float | None = of("rldk/checkpoint/unchanged")
    size_gib: float | None = of("rldk/checkpoint/size_gib")
    gradient_norm: float | None = of("rldk/grad/norm")
    layers_without_gradient: float | None = of("rldk/grad/layers_without")
    update_ratio: float | None = of("rldk/update/ratio/p50")
    parameters_gib: float | None = of("rldk/memory/parameters_gib")
    optimizer_gib: float | None = of("rldk/memory/optimizer_gib")


class CheckpointMonitor(Monitor):
    """Looks at every checkpoint that is saved, see `CheckpointProbe`, and at the optimizer.

    Groups of series (see `rldk-tracking keys`): checkpoint, memory, grad, update, weight, lr, nan.

    Args:
        enable_parameter_analysis: read the saved tensors; False looks at the files alone.
        enable_gradient_analysis: watch the optimizer too, unless another monitor of the run does.
        level: "light" (files alone), "standard" (every tensor once), "full" (spectral norms too).
        reference: the model that training began from, to measure the drift from. By default the model's own
            `name_or_path`, where that is a folder.
        keep_weights: where `save_total_limit` deletes checkpoints, keep the weights (not the optimizer's state) of the
            first and of the one before, until training ends. Without them the drift from those ends too.
        close_timeout: seconds to wait at the end of the training for the last scans.
        options: as for `Monitor`.

    Raises:
        TypeError, ValueError: no such level; no model at `reference`, a folder or one that was downloaded.

    Examples:
        >>> from rldk_tracking import CheckpointMonitor
        >>> monitor = CheckpointMonitor(level="light")  # GRPOTrainer(..., callbacks=[monitor])
        >>> monitor.history  # the score of each checkpoint, by step
        {}
    """

    def __init__(
        self,
        *,
        enable_parameter_analysis: bool = True,
        enable_gradient_analysis: bool = True,
        level: Literal["light", "standard", "full"] = "standard",
        reference: str | os.PathLike[str] | None = None,
        keep_weights: bool = True,
        close_timeout: float = 10.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        word("level", level, LEVELS)
        flag("enable_parameter_analysis", enable_parameter_analysis)
        flag("enable_gradient_analysis", enable_gradient_analysis)
        self.level: Literal["light", "standard", "full"] = level if enable_parameter_analysis else "light"
        self.reference = folder("reference", reference, '"path/of/the/model"')
        self.keep_weights = flag("keep_weights", keep_weights)
        self.close_timeout = number("close_timeout", close_timeout, low=0)
        self._optimizer_level = level if enable_gradient_analysis else None
        self.make_probes()  # raises now, not in training, for what cannot be

    def make_probes(self) -> Sequence[Probe]:
        probe = CheckpointProbe(
            self.level,
            reference=self.reference,
            keep_weights=self.keep_weights,
            close_timeout=self.close_timeout,
        )
        return [probe] if self._optimizer_level is None else [OptimizerProbe(self._optimizer_level), probe]

    @property
    def _probe(self) -> CheckpointProbe | None:
        return next((probe for probe in self._probes if isinstance(probe, CheckpointProbe)), None)

    @property
    def metrics(self) -> CheckpointMetrics:
        """The latest values; None where nothing was measured yet."""
        if self._run is None:
            return CheckpointMetrics()
        values = {} if self._probe is None else self._probe.values
        return CheckpointMetrics.from_row(self._run.latest_step, {**values, **self._run.latest})

    @property
    def history(self) -> dict[int, float]:
        """The score of each checkpoint that was scanned, by step."""
        return {} if self._probe is None else dict(self._probe.scores)

    @property
    def trend(self) -> Trend | None:
        """Which checkpoint is the best, which to keep, since when it got worse; None before the first scan."""
        return None if self._probe is None else self._probe.trend
