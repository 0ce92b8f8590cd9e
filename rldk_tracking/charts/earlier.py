"""What a run holds from before this process: a training that goes on from a checkpoint has one run in parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rldk_tracking.charts.series import Points, thinned
from rldk_tracking.charts.spec import charted

IN_EVERY_ROW = "rldk/alerts/firing"
MOST_STEPS = 1000
"""Longer histories are left in the store: MLflow has no way to ask for every so-many-th point."""
MOST_POINTS = 800


class Earlier:
    """The rows of one MLflow run before a step, read once.

    Args:
        client: an `MlflowClient`.
        run_id: the run.
        first: the first step of this process.

    Attributes:
        left_out: the last step of the earlier rows where these are too many to be read; else None.

    Raises:
        MlflowException: the store does not answer.
    """

    def __init__(self, client: Any, run_id: str, first: int) -> None:
        self._client = client
        self._run_id = run_id
        self._first = first
        steps = [step for step, _ in self._points(IN_EVERY_ROW)]
        self._there = 0 < len(steps) <= MOST_STEPS
        self.left_out = max(steps) if len(steps) > MOST_STEPS else None

    def before(self, series: Mapping[str, Points]) -> dict[str, Points]:
        """The series with their earlier points before them, as far as those are read."""
        found = dict(series)
        if self._there:
            for key in charted(series):
                found[key] = thinned([*self._points(key), *series[key]], MOST_POINTS)
        return found

    def _points(self, key: str) -> Points:
        history = self._client.get_metric_history(self._run_id, key)
        return sorted({int(point.step): float(point.value) for point in history if point.step < self._first}.items())
