"""What is logged of the checkpoints of a run: one row of numbers, tables of checkpoints and layers, heat-maps."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

from rldk_tracking.charts.heatmap import heatmap_svg
from rldk_tracking.checkpoint import report, score
from rldk_tracking.checkpoint.findings import Scan
from rldk_tracking.checkpoint.integrity import disk
from rldk_tracking.probes.base import Publish

logger = logging.getLogger(__name__)

WORST_LAYERS = 20
"""Rows of the table of layers."""
PROBLEMS = 10
"""Problems of one checkpoint that are logged."""
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


class CheckpointLog:
    """Logs the checkpoints of a run.

    Args:
        publish: shows tables, pictures and models.
        args: the trainer's, for how many saves are to come.

    Attributes:
        scores: step to score.
        values: the latest value of each key.
    """

    def __init__(self, publish: Publish, args: Any) -> None:
        self._publish, self._args = publish, args
        self.scores: dict[int, float] = {}
        self.values: dict[str, float] = {}
        self._history: list[list[Any]] = []
        self._drifts: dict[int, dict[str, float]] = {}

    def log_all(self, scans: Sequence[Scan]) -> dict[str, float]:
        """One row for what ended since the last one: the latest scan's numbers, with the worst counts of all."""
        row: dict[str, float] = {}
        for found in scans:
            metrics = self.log(found)
            row = metrics | {key: max(row.get(key, 0.0), metrics.get(key, 0.0)) for key in COUNTS if key in row}
        return row

    def log(self, found: Scan) -> dict[str, float]:
        """The row of one checkpoint; its tables and pictures are published at once."""
        step = found.step or 0
        metrics = report.metrics(found) | {"rldk/checkpoint/step": float(step)} | self._room(found)
        self.values.update(metrics)
        if "rldk/checkpoint/score" in metrics:
            self.scores[step] = metrics["rldk/checkpoint/score"]
        for problem in found.problems[:PROBLEMS]:
            logger.warning("rldk: %s: %s", found.path.name, problem.message)
        if found.tensors:
            rows = report.layer_rows(found, limit=WORST_LAYERS)
            table = [list(row) for row in rows]
            self._publish("log_table", "rldk/checkpoint/layers", list(report.LAYER_COLUMNS), table, step)
        facts = {"path": str(found.path), "verdict": score.verdict(found), "tensors": str(len(found.entries))}
        self._publish("log_checkpoint", found.path.name, dict(metrics), facts, step)
        self._history.append([step, *(metrics.get(key) for key in HISTORY)])
        del self._history[:-HISTORY_ROWS]
        columns = ["step", *(key.removeprefix("rldk/checkpoint/") for key in HISTORY)]
        self._publish("log_table", "rldk/checkpoint/history", columns, list(self._history), step)
        drifts = layer_drifts(found)
        if drifts:
            self._drifts[step] = drifts
            self._draw("rldk/checkpoint/drift_by_layer", "Drift from the checkpoint before", self._drifts, step)
        return metrics

    def _room(self, found: Scan) -> dict[str, float]:
        try:
            room, problem = disk(found.path, saves_left(self._args, found.step), found.nbytes)
        except OSError:  # the checkpoint was deleted meanwhile
            return {}
        if problem is not None:
            logger.warning("rldk: %s", problem.message)
        return {"rldk/checkpoint/room_for_saves": room, "rldk/checkpoint/disk_short": float(problem is not None)}

    def _draw(self, key: str, title: str, columns: dict[int, dict[str, float]], step: int) -> None:
        for old in sorted(columns)[:-HEATMAP_STEPS]:
            del columns[old]
        self._publish("log_figure", key, heatmap_svg(title, columns), step)


def layer_drifts(found: Scan) -> dict[str, float]:
    """Layer to its relative drift from the checkpoint before, NaN for one that holds what is no number."""
    drifts = {}
    for layer, tensors in found.layers().items():
        drift = found.drift("previous", layer)
        if drift is not None and not all(statistics.finite for statistics in tensors):
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
