"""Rows by steps as data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


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
