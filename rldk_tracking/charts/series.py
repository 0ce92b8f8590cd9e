"""A run's series in bounded memory, with what an earlier process wrote and the limits that the user gave.

Keys, read by `rldk_tracking.keys`:

    rldk/<group>/limit | that of the series | user | max over ranks
        A limit that the user gave for a series of the group, to be seen beside it.
        = the threshold of the rule
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rldk_tracking.charts.spec import charted

Points = list[tuple[int, float]]
IN_EVERY_ROW = "rldk/alerts/firing"
MOST_STEPS = 1000
"""Longer histories are left in the store: MLflow has no way to ask for every so-many-th point."""
MOST_POINTS = 800
LIMIT_SERIES = {
    "kl.high": "rldk/kl/limit",
    "goal.max_kl_divergence": "rldk/kl/limit",
    "grad.explosion": "rldk/grad/limit",
    "goal.max_gradient_norm": "rldk/grad/limit",
    "policy.clip_fraction": "rldk/policy/limit",
    "goal.max_clip_fraction": "rldk/policy/limit",
    "length.truncated": "rldk/length/limit",
    "goal.max_truncated_fraction": "rldk/length/limit",
}
"""Rule to the series that shows its limit."""


def thinned(points: Points, most: int) -> Points:
    """At most about `most` of the points, evenly spread, with the first and the last."""
    kept = points[:: -(-len(points) // most)] if points else []
    return kept if not points or kept[-1] == points[-1] else [*kept, points[-1]]


class Thinned:
    """A run's series in bounded memory: every point of a short run, every so-many-th of a long one.

    Keeps at most `most` points a series. When one is full, every second point goes and only every second one that
    comes later is kept, so that the points stay evenly spread; the last point is always there.

    Attributes:
        step: the last step, None before the first row.
    """

    def __init__(self, most: int = 400) -> None:
        if most < 2:
            raise ValueError(f"most must be at least 2, got {most}")
        self._most = most
        self._kept: dict[str, Points] = {}
        self._stride: dict[str, int] = {}
        self._count: dict[str, int] = {}
        self._last: dict[str, tuple[int, float]] = {}
        self.step: int | None = None

    def add(self, row: Mapping[str, float], step: int) -> None:
        """One row. That of an earlier step holds what became known of it later."""
        self.step = step if self.step is None else max(step, self.step)
        for key, value in row.items():
            count = self._count.get(key, 0)
            self._count[key] = count + 1
            self._last[key] = (step, value)
            if count % self._stride.setdefault(key, 1):
                continue
            points = self._kept.setdefault(key, [])
            points.append((step, value))
            if len(points) >= self._most:
                del points[1::2]
                self._stride[key] *= 2

    @property
    def series(self) -> dict[str, Points]:
        """Key to its points, in the order in which they came."""
        found = {}
        for key, points in self._kept.items():
            last = self._last[key]
            found[key] = [*points] if points[-1] == last else [*points, last]
        return found

    @property
    def row(self) -> dict[str, float]:
        """The last value of each series."""
        return {key: value for key, (_, value) in self._last.items()}


class Earlier:
    """The rows of one MLflow run before a step, read once: a training that goes on has one run in parts.

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


def limits_of(overrides: Mapping[str, Mapping[str, Any]], goals: Mapping[str, float]) -> dict[str, float]:
    """Limits that the user gave, as series beside what they limit: no tracker draws a line by itself.

    Those of rules that the user left alone have none, since they are not fixed.
    """
    given = {rule: fields.get("threshold") for rule, fields in overrides.items()}
    given |= {f"goal.{name}": limit for name, limit in goals.items()}
    return {
        LIMIT_SERIES[rule]: float(limit)
        for rule, limit in given.items()
        if rule in LIMIT_SERIES and isinstance(limit, (int, float)) and math.isfinite(limit)
    }
