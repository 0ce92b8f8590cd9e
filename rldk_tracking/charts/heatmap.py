"""Rows by steps as data, as an SVG document, and when those that grow with the run are shown."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Any, Protocol

CELL_HEIGHT, WIDTH, LEFT, TOP, BOTTOM = 14, 760, 230, 34, 24
LOW, HIGH = (247, 251, 255), (8, 48, 107)
UNKNOWN = "#dddddd"
BROKEN = "#d62728"

FIRST_ROWS = 5
EVERY_ROWS = 25


@dataclass(frozen=True, slots=True)
class Heatmap:
    """A table of numbers.

    Attributes:
        title: what the numbers are.
        rows: names, from the top.
        steps: the first step of each column.
        values: one sequence for each row; None where a column has no number for it.
        edges: where the rows are bins, their limits in rising order, one more than there are rows; else empty.
    """

    title: str
    rows: tuple[str, ...]
    steps: tuple[int, ...]
    values: tuple[tuple[float | None, ...], ...]
    edges: tuple[float, ...] = ()

    def svg(self) -> str:
        """The picture."""
        columns: dict[int, dict[str, float]] = {step: {} for step in self.steps}
        for step, row, value in self.cells():
            columns[step][row] = value
        return heatmap_svg(self.title, columns)

    def cells(self) -> Iterator[tuple[int, str, float]]:
        """Step, row and number of each place that has one, row by row."""
        for row, values in zip(self.rows, self.values, strict=True):
            for step, value in zip(self.steps, values, strict=True):
                if value is not None:
                    yield step, row, value

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Heatmap:
        """From what `as_dict` made, also by way of JSON.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """

        def number(value: Any) -> float | None:
            return None if value is None else float(value)

        rows = tuple(str(row) for row in data["rows"])
        steps = tuple(int(step) for step in data["steps"])
        values = tuple(tuple(number(value) for value in row) for row in data["values"])
        if len(values) != len(rows) or any(len(row) != len(steps) for row in values):
            raise ValueError("a heat-map has one number for each row and step")
        return cls(str(data["title"]), rows, steps, values, _floats(data.get("edges", ())))


def heatmap_svg(title: str, columns: Mapping[int, Mapping[str, float]]) -> str:
    """The picture: one row a layer, one column a step, darker for larger. No scripts, fonts or files from elsewhere.

    Args:
        title: what the numbers are.
        columns: step to layer to value. A layer without a value in a step is grey, NaN is red. The scale is
            logarithmic between the smallest and the largest value above 0.
    """
    steps = sorted(columns)
    layers = list(dict.fromkeys(layer for step in steps for layer in columns[step]))
    if not layers:
        return ""
    shown = [value for step in steps for value in columns[step].values() if math.isfinite(value) and value > 0]
    low, high = (math.log10(min(shown)), math.log10(max(shown))) if shown else (0.0, 0.0)
    width = (WIDTH - LEFT - 8) / len(steps)
    height = TOP + CELL_HEIGHT * len(layers) + BOTTOM
    scale = f"{10**low:.2g} to {10**high:.2g}" if shown else "all 0"
    parts = [f'<text x="8" y="18" font-size="13">{escape(title)} ({scale})</text>']
    for row, layer in enumerate(layers):
        y = TOP + row * CELL_HEIGHT
        name = layer if len(layer) <= 34 else "..." + layer[-31:]
        parts.append(f'<text x="{LEFT - 6}" y="{y + 11}" font-size="10" text-anchor="end">{escape(name)}</text>')
        for column, step in enumerate(steps):
            value = columns[step].get(layer)
            label = "no value" if value is None else f"{value:.3g}"
            parts.append(
                f'<rect x="{LEFT + column * width:.1f}" y="{y}" width="{width:.1f}" height="{CELL_HEIGHT}" '
                f'fill="{_colour(value, low, high)}"><title>{escape(layer)}, step {step}: {label}</title></rect>'
            )
    for column in sorted({0, len(steps) // 2, len(steps) - 1}):
        x = LEFT + (column + 0.5) * width
        parts.append(f'<text x="{x:.1f}" y="{height - 8}" font-size="10" text-anchor="middle">{steps[column]}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="sans-serif">{"".join(parts)}</svg>'
    )


def _colour(value: float | None, low: float, high: float) -> str:
    if value is None:
        return UNKNOWN
    if not math.isfinite(value):
        return BROKEN
    share = 0.0
    if value > 0:
        share = (math.log10(value) - low) / (high - low) if high > low else 1.0
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(LOW, HIGH, strict=True))


def _floats(values: Sequence[Any]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


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


class GrowingFigure(Protocol):
    """`Distribution` and `LayersOverSteps`: memory that does not grow with the run."""

    def add(self, step: int, values: Any, /) -> None:
        """What a step brought."""

    def heatmap(self) -> Heatmap | None:
        """The picture so far; None before there is anything."""


class LiveHeatmap:
    """Publishes a heat-map at a cadence, and once more at the end.

    Args:
        key: its series.
        figure: collects the numbers.
        publish: has it shown, `publish("log_heatmap", key, heatmap, step)`.
    """

    def __init__(self, key: str, figure: GrowingFigure, publish: Callable[..., None]) -> None:
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
