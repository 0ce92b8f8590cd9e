"""Numbers over the steps of a run of any length, in a bounded number of columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

K = TypeVar("K", str, int)


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
