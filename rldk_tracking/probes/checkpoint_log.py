"""What is logged of the checkpoints of a run: one row of numbers, tables of checkpoints and layers, heat-maps."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from rldk_tracking.charts.heatmap import heatmap_svg
from rldk_tracking.checkpoint import report, score
from rldk_tracking.checkpoint.findings import Scan
from rldk_tracking.checkpoint.integrity import disk
from rldk_tracking.messages.terminal import printable
from rldk_tracking.probes.base import Publish

logger = logging.getLogger(__name__)

SCANNED = "rldk/checkpoint/scanned"
WORST_LAYERS = 20
"""Rows of the table of layers."""
PROBLEMS = 10
"""Problems of one checkpoint that are logged."""
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
        usable: steps of those that were read whole, lack nothing and hold numbers only.
        values: the latest value of each key.
    """

    def __init__(self, publish: Publish, args: Any) -> None:
        self._publish, self._args = publish, args
        self.scores: dict[int, float] = {}
        self.usable: set[int] = set()
        self.values: dict[str, float] = {}
        self._said_unknown = False
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
            rows = report.layer_rows(found, limit=WORST_LAYERS)
            table = [list(row) for row in rows]
            self._publish("log_table", "rldk/checkpoint/layers", list(report.LAYER_COLUMNS), table, step)
        facts = {"path": str(found.path), "verdict": score.verdict(found), "tensors": str(len(found.entries))}
        self._publish("log_checkpoint", found.path.name, dict(metrics), facts, step)
        self._add_to_history(step, metrics)
        drifts = layer_drifts(found)
        if drifts:
            self._drifts[step] = drifts
            self._draw("rldk/checkpoint/drift_by_layer", "Drift from the checkpoint before", self._drifts, step)
        return metrics

    def _add_to_history(self, step: int, metrics: Mapping[str, float]) -> None:
        self._history.append([step, *(metrics.get(key) for key in HISTORY)])
        del self._history[:-HISTORY_ROWS]
        columns = ["step", *(key.removeprefix("rldk/checkpoint/") for key in HISTORY)]
        self._publish("log_table", "rldk/checkpoint/history", columns, list(self._history), step)

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
