"""A number of each layer, over the steps of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rldk_tracking.charts.columns import Columns
from rldk_tracking.charts.heatmap import Heatmap

ROWS = 48
STEPS = 48


class LayersOverSteps:
    """Norms of layers, in memory that does not grow with the run.

    A model of more layers than there are rows is shown with neighbours in one row: the norm of what they hold together.

    Args:
        title: what the numbers are.
        rows, steps: at most so many rows and columns.
    """

    def __init__(self, title: str, rows: int = ROWS, steps: int = STEPS) -> None:
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
