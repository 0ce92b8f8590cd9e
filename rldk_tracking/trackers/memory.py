"""Keeps everything in lists, for tests and notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from rldk_tracking.charts.heatmap import Heatmap
from rldk_tracking.health.alert import Alert
from rldk_tracking.trackers.base import Row, Tracker


class InMemoryTracker(Tracker):
    """What the run produced, as plain Python.

    Attributes:
        series: key -> [(step, value), ...] in the order written.
        alerts: every alert and every end of one; an alert that has become the cause of further rules comes again.
        tables: key -> [(step, columns, rows), ...].
        figures: key -> [(step, svg), ...].
        heatmaps: key -> its latest one.
        checkpoints: name -> its numbers.
        statuses: [(step, status), ...].

    Examples:
        >>> from rldk_tracking import InMemoryTracker
        >>> tracker = InMemoryTracker()  # RLDKCallback(trackers=[tracker])
        >>> tracker.log({"rldk/reward/mean": 0.5}, step=1)
        >>> tracker.series["rldk/reward/mean"]
        [(1, 0.5)]
    """

    name: ClassVar[str] = "memory"

    def __init__(self) -> None:
        self.series: dict[str, list[tuple[int, float]]] = {}
        self.alerts: list[Alert] = []
        self.tables: dict[str, list[tuple[int, list[str], list[list[Any]]]]] = {}
        self.figures: dict[str, list[tuple[int, str]]] = {}
        self.heatmaps: dict[str, Heatmap] = {}
        self.checkpoints: dict[str, dict[str, float]] = {}
        self.statuses: list[tuple[int, str]] = []

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for key, value in metrics.items():
            self.series.setdefault(key, []).append((step, value))

    def log_rows(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self.log(row.all, row.step)

    def last_step(self) -> int | None:
        return max((step for points in self.series.values() for step, _ in points[-1:]), default=None)

    def log_table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        self.tables.setdefault(key, []).append((step, list(columns), [list(row) for row in rows]))

    def log_figure(self, key: str, svg: str, step: int) -> None:
        self.figures.setdefault(key, []).append((step, svg))

    def log_heatmap(self, key: str, heatmap: Heatmap, step: int) -> None:
        self.heatmaps[key] = heatmap

    def log_checkpoint(self, name: str, metrics: Mapping[str, float], params: Mapping[str, str], step: int) -> None:
        self.checkpoints[name] = dict(metrics)

    def alert(self, alert: Alert) -> None:
        self.alerts.append(alert)

    def status(self, status: str, metrics: Mapping[str, float], step: int) -> None:
        self.statuses.append((step, status))
