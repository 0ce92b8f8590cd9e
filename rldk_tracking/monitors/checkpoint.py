"""Checkpoints: looks at each one after it was saved, in a process beside the training."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from rldk_tracking.checkpoint import report, score
from rldk_tracking.checkpoint.background import BackgroundScans
from rldk_tracking.checkpoint.heatmap import heatmap
from rldk_tracking.checkpoint.integrity import disk
from rldk_tracking.checkpoint.memory import footprint, suggestions
from rldk_tracking.checkpoint.scan import Scan
from rldk_tracking.monitors.base import Monitor
from rldk_tracking.monitors.optimizer import OptimizerMonitor
from rldk_tracking.run import Run
from rldk_tracking.snapshot import Snapshot, of
from rldk_tracking.sources.optimizer import OptimizerProbe

logger = logging.getLogger(__name__)

WORST_LAYERS = 20
"""Rows of the table of layers."""
COUNTS = tuple(f"rldk/checkpoint/{name}" for name in ("corrupt", "incomplete", "nonfinite", "unchanged"))
"""What must not go unseen because the next scan is finished too."""
HISTORY = tuple(
    f"rldk/checkpoint/{name}"
    for name in (
        "score",
        "drift",
        "drift_previous",
        "cosine_previous",
        "nonfinite",
        "corrupt",
        "incomplete",
        "size_gib",
    )
)
"""Columns of the table of checkpoints."""
HISTORY_ROWS = 200
HEATMAP_STEPS = 60
"""Columns of the heat-maps, the latest checkpoints."""


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
        close_timeout: float = 10.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.level: Literal["light", "standard", "full"] = level if enable_parameter_analysis else "light"
        self.reference = Path(reference) if reference is not None else None
        self.close_timeout = close_timeout
        self._optimizer_monitor = OptimizerMonitor(level=level) if enable_gradient_analysis else None
        self._optimizer: Any = None
        self._args: Any = None
        self._scans: BackgroundScans | None = None
        self._first: Path | None = None
        self._previous: Path | None = None
        self._base: Path | None = None
        self._told_missing = False
        self._forget()

    @property
    def metrics(self) -> CheckpointMetrics:
        """The latest values; None where nothing was measured yet."""
        if self._run is None:
            return CheckpointMetrics()
        return CheckpointMetrics.from_row(self._run.latest_step, self._values | self._run.latest)

    @property
    def history(self) -> dict[int, float]:
        """The score of each checkpoint that was scanned, by step."""
        return dict(self._scores)

    @property
    def trend(self) -> report.Trend | None:
        """Which checkpoint is the best, which to keep, since when it got worse; None before the first scan."""
        return report.trend(self._scores)

    def begin(self, run: Run, trainer: Any, args: Any, model: Any, optimizer: Any) -> None:
        self._optimizer = optimizer if optimizer is not None else getattr(trainer, "optimizer", None)
        if self._optimizer_monitor is not None:
            self._optimizer_monitor.begin_within(run, trainer, args, model, optimizer)
        if not run.claim("checkpoint", self) or _rank() != 0:
            return
        self._forget()
        self._args = args
        self._scans = BackgroundScans(self.level)
        self._base = self.reference if self.reference is not None else local_folder(model)

    def before_step(self, run: Run, step: int) -> None:
        if self._optimizer_monitor is not None:
            self._optimizer_monitor.before_step(run, step)

    def collect(self, run: Run, step: int, logs: Mapping[str, Any]) -> None:
        if self._optimizer_monitor is not None:
            self._optimizer_monitor.collect(run, step, logs)
        if self._scans is not None:
            run.add(self._report_all(run, self._scans.finished()))

    def saved(self, run: Run, step: int, args: Any, model: Any) -> None:
        if self._scans is None:
            return
        path = Path(args.output_dir) / f"checkpoint-{step}"
        if not path.is_dir():
            if not self._told_missing:
                self._told_missing = True
                logger.warning("rldk: %s was said to be saved and is not there; it is not looked at.", path)
            return
        against = {"previous": self._previous, "first": self._first, "reference": self._base}
        self._scans.submit(path, {label: other for label, other in against.items() if other is not None})
        self._previous, self._first = path, self._first or path
        self._look_at_gradients(run, step)
        if isinstance(model, torch.nn.Module):
            self._look_at_memory(run, step, model)

    def end(self, run: Run) -> None:
        if self._optimizer_monitor is not None:
            self._optimizer_monitor.end(run)
        if self._scans is None:
            return
        metrics = self._report_all(run, self._scans.close(self.close_timeout))
        self._scans = None
        if metrics:
            run.conclude(metrics, run.latest_step or int(metrics["rldk/checkpoint/step"]))

    def _forget(self) -> None:
        self._scores: dict[int, float] = {}
        self._history: list[list[Any]] = []
        self._drifts: dict[int, dict[str, float]] = {}
        self._gradients: dict[int, dict[str, float]] = {}
        self._values: dict[str, float] = {}
        self._first = self._previous = None

    def _report_all(self, run: Run, scans: Sequence[Scan]) -> dict[str, float]:
        """One row for what ended since the last one: the latest scan's numbers, with the worst counts of all."""
        row: dict[str, float] = {}
        for found in scans:
            metrics = self._report(run, found)
            row = metrics | {key: max(row.get(key, 0.0), metrics.get(key, 0.0)) for key in COUNTS if key in row}
        return row

    def _report(self, run: Run, found: Scan) -> dict[str, float]:
        step = found.step or 0
        metrics = report.metrics(found) | {"rldk/checkpoint/step": float(step)}
        metrics |= self._room(found)
        self._values.update(metrics)
        if "rldk/checkpoint/score" in metrics:
            self._scores[step] = metrics["rldk/checkpoint/score"]
        for problem in found.problems[:10]:
            logger.warning("rldk: %s: %s", found.path.name, problem.message)
        if found.tensors:
            rows = report.layer_rows(found, limit=WORST_LAYERS)
            run.table("rldk/checkpoint/layers", list(report.LAYER_COLUMNS), [list(row) for row in rows], step)
        facts = {"path": str(found.path), "verdict": score.verdict(found), "tensors": str(len(found.entries))}
        run.checkpoint(found.path.name, metrics, facts, step)
        self._history.append([step, *(metrics.get(key) for key in HISTORY)])
        columns = ["step", *(key.removeprefix("rldk/checkpoint/") for key in HISTORY)]
        run.table("rldk/checkpoint/history", columns, self._history[-HISTORY_ROWS:], step)
        drifts = {layer: found.drift("previous", layer) for layer in found.layers()}
        known = {layer: d.relative for layer, d in drifts.items() if d is not None and d.relative is not None}
        if known:
            self._drifts[step] = known
            _draw(run, "rldk/checkpoint/drift_by_layer", "Drift from the checkpoint before", self._drifts, step)
        return metrics

    def _room(self, found: Scan) -> dict[str, float]:
        try:
            room, problem = disk(found.path, _saves_left(self._args, found.step), found.nbytes)
        except OSError:  # the checkpoint was deleted meanwhile
            return {}
        if problem is not None:
            logger.warning("rldk: %s", problem.message)
        return {"rldk/checkpoint/room_for_saves": room, "rldk/checkpoint/disk_short": float(problem is not None)}

    def _look_at_gradients(self, run: Run, step: int) -> None:
        probe = getattr(run.read_probe, "__self__", None)
        if isinstance(probe, OptimizerProbe) and "gradients" in probe.latest:
            self._gradients[step] = probe.latest["gradients"]
            _draw(run, "rldk/checkpoint/gradient_by_layer", "Gradient norm", self._gradients, step)

    def _look_at_memory(self, run: Run, step: int, model: torch.nn.Module) -> None:
        held = footprint(model, self._optimizer)
        row = held.as_row()
        self._values.update(row)
        run.add(row)
        if len(self._gradients) > 1 or len(self._scores) > 1:
            return  # suggestions do not change
        saved = self._values.get("rldk/checkpoint/size_gib")
        ideas = suggestions(
            held,
            parameter_bytes=next((p.element_size() for p in model.parameters() if p.requires_grad), 4),
            gradient_checkpointing=bool(getattr(self._args, "gradient_checkpointing", False)),
            checkpoint_gib=saved,
            checkpoints=len(self._scores),
            save_total_limit=getattr(self._args, "save_total_limit", None),
        )
        if ideas:
            run.table("rldk/memory/suggestions", ["change", "saves GiB"], [[i.change, i.gib] for i in ideas], step)


def local_folder(model: Any) -> Path | None:
    """Where a model, or the model below an adapter, was loaded from, if that is a folder."""
    name = getattr(getattr(model, "config", None), "name_or_path", None)
    return Path(name) if name and Path(name).is_dir() else None


def _draw(run: Run, key: str, title: str, columns: dict[int, dict[str, float]], step: int) -> None:
    for old in sorted(columns)[:-HEATMAP_STEPS]:
        del columns[old]
    run.figure(key, heatmap(title, columns), step)


def _saves_left(args: Any, step: int | None) -> int | None:
    """How many further saves the disk must hold: those to come, or one where old ones make room for new ones."""
    limit, every = getattr(args, "save_total_limit", None), getattr(args, "save_steps", None)
    last = getattr(args, "max_steps", -1)
    if limit:
        return 1
    if step is None or not isinstance(every, int) or every < 1 or last < 1:
        return None
    return max(0, (last - step) // every)


def _rank() -> int:
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_rank() if distributed else 0
