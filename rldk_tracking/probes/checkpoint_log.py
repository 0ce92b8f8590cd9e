"""What is logged at the saves of a run: a row of numbers of each checkpoint, tables of checkpoints and layers, a
heat-map; what the training holds in memory, and once what would make it less.

Keys, read by `rldk_tracking.metrics.keys`:

    rldk/checkpoint/step | steps | checkpoint | max over ranks
        Which checkpoint these numbers are of.
        = its step
    rldk/checkpoint/scanned | 1 | checkpoint | higher | min over ranks
        1 where this checkpoint was looked at, 0 where it was not: deleted too soon, without weights, or not in time.
        = 0 or 1
    rldk/checkpoint/room_for_saves | checkpoints | checkpoint | higher | min over ranks
        How many further checkpoints of this size the disk has room for.
        = free space / size
    rldk/checkpoint/disk_short | 1 | checkpoint | lower | max over ranks
        1 where the disk has no room for the checkpoints that are to come.
        = room_for_saves < saves to come (3 where that is not known)
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import torch

from rldk_tracking.charts.heatmap import Heatmap
from rldk_tracking.checkpoint import report, score
from rldk_tracking.checkpoint.findings import Scan
from rldk_tracking.checkpoint.integrity import disk
from rldk_tracking.checkpoint.memory import footprint, suggestions
from rldk_tracking.messages.arguments import printable
from rldk_tracking.probes.base import Publish

logger = logging.getLogger(__name__)

SCANNED = "rldk/checkpoint/scanned"
WORST_LAYERS = 20
"""Rows of the table of layers."""
PROBLEMS = 10
"""Problems of one checkpoint that are logged."""
NUMBERS = ("score", "drift", "drift_previous", "cosine_previous", "nonfinite", "corrupt", "incomplete", "size_gib")
"""Columns of the table of checkpoints, each `rldk/checkpoint/<name>`."""
HISTORY_ROWS = 200
HEATMAP_STEPS = 60
"""Columns of the heat-map, the latest checkpoints."""


class CheckpointLog:
    """Logs the checkpoints of a run, and its memory.

    Args:
        publish: shows tables, pictures and models.
        args: the trainer's, for how many saves are to come and what they keep.

    Attributes:
        scores: step to score.
        usable: steps of those that were read whole, lack nothing and hold numbers only.
        values: the latest value of each key.
    """

    def __init__(self, publish: Publish, args: Any) -> None:
        self._publish, self._args = publish, args
        self.scores: dict[int, float] = {}
        self.usable: set[int] = set()
        self.values: dict[str, float] = {}
        self._said_unknown = self._has_suggested = False
        self._history: list[list[Any]] = []
        self._drifts: dict[int, dict[str, float]] = {}

    def log_unscanned(self, step: int) -> dict[str, float]:
        """The row of a checkpoint that was not looked at."""
        self._add_to_history(step, {})
        return {"rldk/checkpoint/step": float(step), SCANNED: 0.0}

    def log(self, found: Scan) -> dict[str, float]:
        """The row of one checkpoint; its tables and pictures are published at once."""
        step = found.step or 0
        metrics = report.metrics(found) | {"rldk/checkpoint/step": float(step), SCANNED: 1.0} | self._room(found)
        self.values.update(metrics)
        if score.is_usable(found):
            self.usable.add(step)
        if "rldk/checkpoint/score" in metrics:
            self.scores[step] = metrics["rldk/checkpoint/score"]
        if found.unknown is not None and not self._said_unknown:
            self._said_unknown = True
            logger.warning(
                "rldk: how far the adapted weights have moved is not known: %s. The drift, cosine and norm ratios of "
                "rldk/checkpoint are left out.",
                printable(found.unknown),
            )
        for problem in found.problems[:PROBLEMS]:
            logger.warning("rldk: %s: %s", found.path.name, printable(problem.message))
        if found.tensors:
            rows = [list(row) for row in report.layer_rows(found, limit=WORST_LAYERS)]
            self._publish("log_table", "rldk/checkpoint/layers", list(report.LAYER_COLUMNS), rows, step)
        facts = {"path": str(found.path), "verdict": score.verdict(found), "tensors": str(len(found.entries))}
        self._publish("log_checkpoint", found.path.name, dict(metrics), facts, step)
        self._add_to_history(step, metrics)
        drifts = layer_drifts(found)
        if drifts:
            self._drifts[step] = drifts
            for old in sorted(self._drifts)[:-HEATMAP_STEPS]:
                del self._drifts[old]
            heatmap = Heatmap.of_columns("Drift from the checkpoint before", self._drifts)
            self._publish("log_heatmap", "rldk/checkpoint/drift_by_layer", heatmap, step)
        return metrics

    def log_memory(self, model: torch.nn.Module, optimizer: Any, step: int) -> dict[str, float]:
        """The `rldk/memory/*` keys that are known at a save; suggestions at the first two, as they do not change."""
        memory = footprint(model, optimizer)
        saved_gib = self.values.get("rldk/checkpoint/size_gib")
        if not self._has_suggested:
            self._has_suggested = saved_gib is not None
            ideas = suggestions(
                memory,
                parameter_bytes=next((p.element_size() for p in model.parameters() if p.requires_grad), 4),
                gradient_checkpointing=bool(getattr(self._args, "gradient_checkpointing", False)),
                checkpoint_gib=saved_gib,
                checkpoints=len(self.scores),
                save_total_limit=getattr(self._args, "save_total_limit", None),
            )
            if ideas:
                rows = [[idea.change, idea.gib] for idea in ideas]
                self._publish("log_table", "rldk/memory/suggestions", ["change", "saves GiB"], rows, step)
        row = memory.as_row()
        self.values.update(row)
        return row

    def _add_to_history(self, step: int, metrics: Mapping[str, float]) -> None:
        self._history.append([step, *(metrics.get(f"rldk/checkpoint/{name}") for name in NUMBERS)])
        del self._history[:-HISTORY_ROWS]
        self._publish("log_table", "rldk/checkpoint/history", ["step", *NUMBERS], list(self._history), step)

    def _room(self, found: Scan) -> dict[str, float]:
        try:
            room, problem = disk(found.path, saves_left(self._args, found.step), found.nbytes)
        except OSError:  # the checkpoint was deleted meanwhile
            return {}
        if problem is not None:
            logger.warning("rldk: %s", problem.message)
        return {"rldk/checkpoint/room_for_saves": room, "rldk/checkpoint/disk_short": float(problem is not None)}


def layer_drifts(found: Scan) -> dict[str, float]:
    """Layer to its relative drift from the checkpoint before, NaN for one that holds what is no number."""
    drifts = {}
    for layer, tensors in found.layers().items():
        drift = found.drift("previous", layer)
        if "previous" in found.compared and not all(statistics.finite for statistics in tensors):
            drifts[layer] = math.nan
        elif drift is not None and drift.relative is not None:
            drifts[layer] = drift.relative
    return drifts


def saves_left(args: Any, step: int | None) -> int | None:
    """How many further saves the disk must hold: those to come, or one where old ones make room for new ones."""
    limit, every = getattr(args, "save_total_limit", None), getattr(args, "save_steps", None)
    last = getattr(args, "max_steps", -1)
    if limit:
        return 1
    if step is None or not isinstance(every, int) or every < 1 or last < 1:
        return None
    return max(0, (last - step) // every)
