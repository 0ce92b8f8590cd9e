"""A run's series in bounded memory, with what an earlier process wrote and the limits that the user gave.

Keys, read by `rldk_tracking.metrics.keys`:

    rldk/<group>/limit | that of the series | user | max over ranks
        A limit that the user gave for a series of the group, to be seen beside it.
        = the threshold of the rule
"""

from __future__ import annotations

import itertools
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


def extremes(points: Points, most: int) -> Points:
    """At most about `most` of the points: the lowest and the highest of each part, so that no peak is lost.

    >>> extremes([(1, 0.0), (2, 9.0), (3, 1.0), (4, 0.5), (5, -3.0), (6, 0.0)], 4)
    [(1, 0.0), (2, 9.0), (4, 0.5), (5, -3.0)]
    """
    if len(points) <= most:
        return [*points]
    size = -(-2 * len(points) // most)
    kept: Points = []
    for start in range(0, len(points), size):
        kept += _lowest_and_highest(points[start : start + size])
    return kept


class Thinned:
    """A run's series in bounded memory: every point of a short run, the lowest and highest of each part of a long one.

    Keeps at most about `most` points a series, in parts of the same length. When there are too many parts every two
    become one, and from then on a part takes twice the rows. The last point is always there.

    Attributes:
        step: the last step, None before the first row.
    """

    def __init__(self, most: int = 400) -> None:
        if most < 4:
            raise ValueError(f"most must be at least 4, got {most}")
        self._most_parts = most // 4 * 2
        self._parts: dict[str, list[Points]] = {}
        self._rows_a_part: dict[str, int] = {}
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
            parts = self._parts.setdefault(key, [])
            if count % self._rows_a_part.setdefault(key, 1):
                first, last = parts[-1][0][1], parts[-1][-1][1]
                if not min(first, last) <= value <= max(first, last):
                    parts[-1] = _lowest_and_highest([*parts[-1], (step, value)])
                continue
            if len(parts) >= self._most_parts:
                none: Points = []
                pairs = itertools.zip_longest(parts[::2], parts[1::2], fillvalue=none)
                parts[:] = [_lowest_and_highest([*first_part, *second]) for first_part, second in pairs]
                self._rows_a_part[key] *= 2
            parts.append([(step, value)])

    @property
    def series(self) -> dict[str, Points]:
        """Key to its points, in the order in which they came."""
        found = {}
        for key, parts in self._parts.items():
            points = [point for part in parts for point in part]
            found[key] = points if points[-1] == self._last[key] else [*points, self._last[key]]
        return found

    @property
    def row(self) -> dict[str, float]:
        """The last value of each series."""
        return {key: value for key, (_, value) in self._last.items()}


def _lowest_and_highest(points: Points) -> Points:
    """Both where they differ, in the order in which they came; a point that is no number counts as the lowest."""
    ranked = sorted(range(len(points)), key=lambda place: (points[place][1] == points[place][1], points[place][1]))
    return [points[place] for place in sorted({ranked[0], ranked[-1]})]


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
                found[key] = extremes([*self._points(key), *series[key]], MOST_POINTS)
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
