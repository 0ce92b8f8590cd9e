"""A run's series in bounded memory: every point of a short run, every so-many-th of a long one."""

from __future__ import annotations

from collections.abc import Mapping

Points = list[tuple[int, float]]


def thinned(points: Points, most: int) -> Points:
    """At most about `most` of the points, evenly spread, with the first and the last."""
    kept = points[:: -(-len(points) // most)] if points else []
    return kept if not points or kept[-1] == points[-1] else [*kept, points[-1]]


class Thinned:
    """Keeps at most `most` points a series. When one is full, every second point goes and only every second one that
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
        """One row."""
        self.step = step
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
