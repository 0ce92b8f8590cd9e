"""Rows by steps as data, and when those that grow with the run are shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

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
    def of_columns(cls, title: str, columns: Mapping[int, Mapping[str, float]]) -> Heatmap:
        """From step to row to number.

        >>> Heatmap.of_columns("Drift", {1: {"a": 0.1}, 2: {"a": 0.2, "b": 0.3}}).values
        ((0.1, 0.2), (None, 0.3))
        """
        steps = sorted(columns)
        rows = tuple(dict.fromkeys(row for step in steps for row in columns[step]))
        return cls(title, rows, tuple(steps), tuple(tuple(columns[step].get(row) for step in steps) for row in rows))

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
