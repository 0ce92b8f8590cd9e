"""How a quantity is distributed, over the steps of a run: a histogram for each column of steps, all with the same bins.

The bins are found while the run goes on. Their width is a power of 2 and their limits are multiples of it, so that two
neighbours are exactly one bin of twice the width: when a value falls outside the room for them, bins are joined, and
nothing that was counted is lost.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from rldk_tracking.charts.columns import Columns
from rldk_tracking.charts.heatmap import Heatmap

BINS = 24
STEPS = 48
FINEST = 2.0**-20
"""Of the largest value: a narrower bin would tell rounding errors apart."""


class Distribution:
    """The histograms of one quantity, in memory that does not grow.

    Args:
        title: what is distributed.
        bins, steps: at most so many rows and columns.
    """

    def __init__(self, title: str, bins: int = BINS, steps: int = STEPS) -> None:
        self._title = title
        self._bins = bins
        self._columns: Columns[int] = Columns(steps)
        self._width = 0.0
        self._range: tuple[int, int] | None = None

    def add(self, step: int, values: ArrayLike) -> None:
        """The values of one step; those that are not finite, or too large for the square of a float, count nowhere."""
        given = np.asarray(values, dtype=np.float64).ravel()
        given = given[np.abs(given) < 1e150]  # NaN compares as false
        if not len(given):
            return
        low, high = float(given.min()), float(given.max())
        if self._range is None:
            finest = max(abs(low), abs(high), 1e-3) * FINEST
            self._width = 2.0 ** math.floor(math.log2(max((high - low) / self._bins, finest)))
            self._range = self._place(low), self._place(high)
        self._range = min(self._range[0], self._place(low)), max(self._range[1], self._place(high))
        while self._range[1] - self._range[0] >= self._bins:
            self._width *= 2.0
            self._range = self._range[0] // 2, self._range[1] // 2
            self._columns.rename(lambda place: place // 2)
        places, counts = np.unique(np.floor(given / self._width).astype(np.int64), return_counts=True)
        self._columns.add(step, dict(zip(places.tolist(), counts.astype(float).tolist(), strict=True)))

    def heatmap(self) -> Heatmap | None:
        """Share of the values in each bin, the highest bin on top; None before the first value."""
        if self._range is None:
            return None
        first, last = self._range
        columns = self._columns.all
        totals = [sum(column.sums.values()) for column in columns]
        places = range(last, first - 1, -1)
        edges = tuple(place * self._width for place in range(first, last + 2))
        return Heatmap(
            title=f"{self._title} over the steps, dark where most are",
            rows=tuple(f"{place * self._width:.6g} to {(place + 1) * self._width:.6g}" for place in places),
            steps=tuple(column.step for column in columns),
            values=tuple(
                tuple(column.sums.get(place, 0.0) / total for column, total in zip(columns, totals, strict=True))
                for place in places
            ),
            edges=edges,
        )

    def _place(self, value: float) -> int:
        return math.floor(value / self._width)
