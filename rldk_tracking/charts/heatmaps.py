"""A heat-map that grows with the run and is shown now and then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from rldk_tracking.charts.cadence import Cadence
from rldk_tracking.charts.heatmap import Heatmap


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
