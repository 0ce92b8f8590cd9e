"""Checkpoints: looks at each one after it was saved, in a process beside the training."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from rldk_tracking.checkpoint import report
from rldk_tracking.checkpoint.background import BackgroundScans
from rldk_tracking.checkpoint.baselines import Baselines
from rldk_tracking.checkpoint.findings import Scan
from rldk_tracking.metrics.view import Snapshot, of
from rldk_tracking.monitors.base import Monitor
from rldk_tracking.monitors.checkpoint_log import CheckpointLog
from rldk_tracking.monitors.memory import MemoryLog
from rldk_tracking.monitors.optimizer import OptimizerMonitor
from rldk_tracking.run import Run
from rldk_tracking.sources.optimizer import OptimizerProbe

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CheckpointMetrics(Snapshot):
    """The latest values of saved weights; units and formulas stand in the key catalogue."""

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
    """Logs `rldk/checkpoint/*` and `rldk/memory/*`, tables of the checkpoints and of the worst
    layers, and heat-maps of layers by step.

    Rank 0 looks at every `checkpoint-<step>` folder of the trainer's output folder after it was saved. The series
    appear in the row of the step at which the scan has ended; `rldk/checkpoint/step` says which checkpoint it was.

    Args:
        enable_parameter_analysis: read the saved tensors; False looks at the files alone.
        enable_gradient_analysis: watch the optimizer too, unless another monitor of the run does.
        level: "light" (files alone), "standard" (every tensor once), "full" (spectral norms too).
        reference: the model that training began from, to measure the drift from. By default the model's own
            `name_or_path`, where that is a folder.
        keep_weights: where `save_total_limit` deletes checkpoints, hold on to the weights (not the optimizer's state)
            of the first and of the one before, until training ends. Without them the drift from those ends too.
        close_timeout: seconds to wait at the end of the training for the last scan.
        options: as for `Monitor`.
    """

    tasks: ClassVar[tuple[str, ...]] = ("checkpoint",)

    def __init__(
        self,
        *,
        enable_parameter_analysis: bool = True,
        enable_gradient_analysis: bool = True,
        level: Literal["light", "standard", "full"] = "standard",
        reference: str | None = None,
        keep_weights: bool = True,
        close_timeout: float = 10.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.level: Literal["light", "standard", "full"] = level if enable_parameter_analysis else "light"
        self.reference = Path(reference) if reference is not None else None
        self.keep_weights = keep_weights
        self.close_timeout = close_timeout
        self._optimizer_monitor = OptimizerMonitor(level=level) if enable_gradient_analysis else None
        self._optimizer: Any = None
        self._scans: BackgroundScans | None = None
        self._baselines: Baselines | None = None
        self._log: CheckpointLog | None = None
        self._memory: MemoryLog | None = None
        self._told_missing = False

    @property
    def metrics(self) -> CheckpointMetrics:
        """The latest values; None where nothing was measured yet."""
        if self._run is None:
            return CheckpointMetrics()
        values = {} if self._log is None else self._log.values
        return CheckpointMetrics.from_row(self._run.latest_step, values | self._run.latest)

    @property
    def history(self) -> dict[int, float]:
        """The score of each checkpoint that was scanned, by step."""
        return {} if self._log is None else dict(self._log.scores)

    @property
    def trend(self) -> report.Trend | None:
        """Which checkpoint is the best, which to keep, since when it got worse; None before the first scan."""
        return report.trend(self.history)

    def begin(self, run: Run, trainer: Any, args: Any, model: Any, optimizer: Any) -> None:
        self._optimizer = optimizer if optimizer is not None else getattr(trainer, "optimizer", None)
        if self._optimizer_monitor is not None:
            self._optimizer_monitor.begin_within(run, trainer, args, model, optimizer)
        if not run.claim("checkpoint", self) or not _is_first_rank():
            return
        # A loop of somebody's own may have no folder, and then nothing is saved.
        folder = getattr(args, "output_dir", None)
        self._scans = BackgroundScans(self.level)
        self._log, self._memory = CheckpointLog(run, args), MemoryLog(run, args)
        limited = bool(getattr(args, "save_total_limit", None)) and self.keep_weights and self.level != "light"
        self._baselines = Baselines(
            self.reference if self.reference is not None else local_folder(model),
            keep_in=Path(folder) if folder is not None and limited else None,
        )
        if folder is not None:
            resumed = getattr(getattr(trainer, "state", None), "global_step", None) or 0
            self._baselines.begin(Path(folder), int(resumed))

    def before_step(self, run: Run, step: int) -> None:
        if self._optimizer_monitor is not None:
            self._optimizer_monitor.before_step(run, step)

    def collect(self, run: Run, step: int, logs: Mapping[str, Any]) -> None:
        if self._optimizer_monitor is not None:
            self._optimizer_monitor.collect(run, step, logs)
        # What is finished at the last step is told with the last checkpoint: one row cannot hold two of them.
        if self._scans is not None and not run.ending:
            run.add(self._tell(self._scans.finished()))

    def saved(self, run: Run, step: int, args: Any, model: Any) -> None:
        if self._scans is None or self._baselines is None:
            return
        path = Path(args.output_dir) / f"checkpoint-{step}"
        if not path.is_dir():
            if not self._told_missing:
                self._told_missing = True
                logger.warning("rldk: %s was said to be saved and is not there; it is not looked at.", path)
            return
        against = self._baselines.take(path)
        self._tell_memory(step, model)
        run.later(lambda: self._tell_gradients(run, step))
        # Last, since whoever takes it up works beside the training from here on.
        self._scans.submit(path, against)

    def end(self, run: Run) -> None:
        if self._optimizer_monitor is not None:
            self._optimizer_monitor.end(run)
        if self._scans is None:
            return
        metrics = self._tell(self._scans.close(self.close_timeout))
        self._scans = self._optimizer = None
        if self._baselines is not None:
            self._baselines.close()
        if metrics:
            run.conclude(metrics, run.latest_step or int(metrics["rldk/checkpoint/step"]))

    def _tell(self, scans: list[Scan]) -> dict[str, float]:
        if self._log is None or self._baselines is None:
            return {}
        for found in scans:
            self._baselines.scanned(found)
        return self._log.tell_all(scans)

    def _tell_gradients(self, run: Run, step: int) -> None:
        probe = getattr(run.read_probe, "__self__", None)
        if self._log is not None and isinstance(probe, OptimizerProbe) and "gradients" in probe.latest:
            self._log.tell_gradients(probe.layout.layers, probe.latest["gradients"], step)

    def _tell_memory(self, step: int, model: Any) -> None:
        if self._log is None or self._memory is None or not isinstance(model, torch.nn.Module):
            return
        size = self._log.values.get("rldk/checkpoint/size_gib")
        self._log.values.update(self._memory.tell(model, self._optimizer, step, size, len(self._log.scores)))


def local_folder(model: Any) -> Path | None:
    """Where a model, or the model below an adapter, was loaded from, if that is a folder."""
    name = getattr(getattr(model, "config", None), "name_or_path", None)
    return Path(name) if name and Path(name).is_dir() else None


def _is_first_rank() -> bool:
    """Whether this is rank 0; true without ranks."""
    in_group = torch.distributed.is_available() and torch.distributed.is_initialized()
    return not in_group or torch.distributed.get_rank() == 0
