"""Numbers over the steps of a run of any length in a bounded number of bins, and when their heat-map is shown."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from rldk_tracking.charts.heatmap import Heatmap

K = TypeVar("K", str, int)
VALUE_BINS = 24
MOST_COLUMNS = 48
FINEST_SHARE = 2.0**-20
"""Of the largest value: a narrower bin would tell rounding errors apart."""
LAYER_ROWS = 48
FIRST_ROWS, EVERY_ROWS = 5, 25
"""Before the first picture, and between two."""


@dataclass
class Column(Generic[K]):
    """What some consecutive steps brought.

    Attributes:
        step: the first of them.
        steps: how many.
        sums: row to the sum of its values.
        counts: row to how many values that were.
    """

    step: int
    steps: int = 0
    sums: dict[K, float] = field(default_factory=dict)
    counts: dict[K, int] = field(default_factory=dict)

    def add(self, sums: Mapping[K, float], counts: Mapping[K, int], steps: int = 1) -> None:
        """Count further steps in."""
        self.steps += steps
        for row, value in sums.items():
            self.sums[row] = self.sums.get(row, 0.0) + value
            self.counts[row] = self.counts.get(row, 0) + counts[row]

    def means(self) -> dict[K, float]:
        """Row to the mean of its values."""
        return {row: value / self.counts[row] for row, value in self.sums.items()}


class Columns(Generic[K]):
    """At most `most` columns. When they are full every two become one, and from then on a column takes twice the steps.

    Attributes:
        all: the columns, in the order of their steps.
    """

    def __init__(self, most: int) -> None:
        if most < 2 or most % 2:
            raise ValueError(f"most must be even and at least 2, got {most}")
        self._most = most
        self._stride = 1
        self._last: int | None = None
        self.all: list[Column[K]] = []

    def add(self, step: int, values: Mapping[K, float]) -> None:
        """What a step brought, row to value. A step may come in several parts, one after the other."""
        if step == self._last:
            self.all[-1].add(values, dict.fromkeys(values, 1), steps=0)
            return
        self._last = step
        if not self.all or self.all[-1].steps >= self._stride:
            if len(self.all) == self._most:
                self._halve()
            self.all.append(Column(step))
        self.all[-1].add(values, dict.fromkeys(values, 1))

    def rename(self, new: Callable[[K], K]) -> None:
        """Give rows other names; rows that get the same one are added up."""
        for column in self.all:
            sums, counts = column.sums, column.counts
            column.sums, column.counts = {}, {}
            for row, value in sums.items():
                column.add({new(row): value}, {new(row): counts[row]}, steps=0)

    def _halve(self) -> None:
        for first, second in zip(self.all[::2], self.all[1::2], strict=True):
            first.add(second.sums, second.counts, second.steps)
        self.all = self.all[::2]
        self._stride *= 2


class Distribution:
    """How a quantity is distributed: a histogram for each column of steps, all with the same bins.

    The bins are found while the run goes on. Their width is a power of 2 and their limits are multiples of it, so that
    two neighbours are exactly one bin of twice the width: when a value falls outside the room for them, bins are
    joined, and nothing that was counted is lost. Memory does not grow with the run.

    Args:
        title: what is distributed.
        bins, steps: at most so many rows and columns.
    """

    def __init__(self, title: str, bins: int = VALUE_BINS, steps: int = MOST_COLUMNS) -> None:
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
            finest = max(abs(low), abs(high), 1e-3) * FINEST_SHARE
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


class LayersOverSteps:
    """Norms of layers, in memory that does not grow with the run.

    A model of more layers than there are rows is shown with neighbours in one row: the norm of what they hold together.

    Args:
        title: what the numbers are.
        rows, steps: at most so many rows and columns.
    """

    def __init__(self, title: str, rows: int = LAYER_ROWS, steps: int = MOST_COLUMNS) -> None:
        self._title = title
        self._most = rows
        self._columns: Columns[str] = Columns(steps)
        self._row_of: dict[str, str] = {}

    def add(self, step: int, norms: Mapping[str, float]) -> None:
        """The norm of each layer at one step, in the model's order; one that is not finite is left out."""
        if not norms.keys() <= self._row_of.keys():
            self._assign(list(norms))
        squares: dict[str, float] = {}
        for layer, norm in norms.items():
            row = self._row_of.get(layer)
            if row is not None and math.isfinite(norm):
                squares[row] = squares.get(row, 0.0) + norm * norm
        if squares:
            self._columns.add(step, {row: math.sqrt(square) for row, square in squares.items()})

    def heatmap(self) -> Heatmap | None:
        """The mean over the steps of a column; None before the first step."""
        columns = self._columns.all
        if not columns:
            return None
        means = [column.means() for column in columns]
        rows = tuple(dict.fromkeys(self._row_of.values()))
        return Heatmap(
            title=self._title,
            rows=rows,
            steps=tuple(column.step for column in columns),
            values=tuple(tuple(column.get(row) for column in means) for row in rows),
        )

    def _assign(self, layers: Sequence[str]) -> None:
        """Give each layer that is new the row that shows it, as long as there is room."""
        if not self._row_of:
            size = -(-len(layers) // self._most)
            for start in range(0, len(layers), size):
                group = layers[start : start + size]
                name = group[0] if len(group) == 1 else f"{group[0]} to {group[-1]}"
                self._row_of.update(dict.fromkeys(group, name))
        for layer in layers:
            if layer not in self._row_of and len(set(self._row_of.values())) < self._most:
                self._row_of[layer] = layer


class Cadence:
    """When to make pictures anew: early, so that a short run has them, and then ever less often.

    A backend keeps every version, or has to be sent the whole picture, so their number must not grow with the run.

    Args:
        first: the row with which the first version comes.
        every: rows between two versions; later on a tenth of the rows so far.
    """

    def __init__(self, first: int = FIRST_ROWS, every: int = EVERY_ROWS) -> None:
        self._every = every
        self._rows = 0
        self._next = self._soonest = first

    def count(self) -> None:
        """A row has come."""
        self._rows += 1

    @property
    def due(self) -> bool:
        """Whether it is time for a version."""
        return self._rows >= self._next

    @property
    def possible(self) -> bool:
        """Whether a version may come before its time, because there is news that should not wait."""
        return self._rows >= self._soonest

    def done(self) -> None:
        """A version was made."""
        self._soonest = self._rows + self._every
        self._next = max(self._soonest, self._rows + self._rows // 10)


class LiveHeatmap:
    """Publishes a heat-map at a cadence, and once more at the end.

    Args:
        key: its series.
        figure: collects the numbers.
        publish: has it shown, `publish("log_heatmap", key, heatmap, step)`.
    """

    def __init__(self, key: str, figure: Distribution | LayersOverSteps, publish: Callable[..., None]) -> None:
        self._key = key
        self._figure = figure
        self._publish = publish
        self._cadence = Cadence()
        self._unseen_step: int | None = None

    def add(self, step: int, values: Any) -> None:
        """What a step brought, see the figure's `add`."""
        self._figure.add(step, values)
        self._unseen_step = step
        self._cadence.count()
        if self._cadence.due:
            self.show()

    def show(self) -> None:
        """Publish what has come since the last time."""
        step, self._unseen_step = self._unseen_step, None
        heatmap = None if step is None else self._figure.heatmap()
        if heatmap is not None:
            self._cadence.done()
            self._publish("log_heatmap", self._key, heatmap, step)
