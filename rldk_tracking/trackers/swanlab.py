"""SwanLab: series, alerts and pictures in the run that is open in this process; its client is asynchronous."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from rldk_tracking.charts.heatmap import Heatmap
from rldk_tracking.charts.panels import RunPictures
from rldk_tracking.health.alert import Alert
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.backend import Backend
from rldk_tracking.trackers.base import RejectedError, Row, Tracker
from rldk_tracking.trackers.records import ENDED

INSTALL = "pip install swanlab"


class SwanLabTracker(Tracker):
    """Writes to the SwanLab run that transformers, or `swanlab.init`, has opened; never opens or ends one.

    SwanLab has no alerts: each is a text under `rldk/alerts/<rule>`, at its step.

    Raises:
        ImportError: swanlab is not installed, or has no `Html` yet.
    """

    name: ClassVar[str] = "swanlab"
    how_to_join: ClassVar[str] = 'Give the trainer report_to="swanlab", or call swanlab.init() before train().'

    def __init__(self) -> None:
        try:
            import swanlab
        except ImportError as error:
            raise ImportError(f"SwanLabTracker needs swanlab: {INSTALL}") from error
        if not hasattr(swanlab, "Html"):
            raise ImportError(f"SwanLabTracker needs a newer swanlab: {INSTALL}")
        self._swanlab: Any = swanlab
        self._run: Any = None
        self._pictures: RunPictures | None = None

    @property
    def joined(self) -> bool:
        return self._run is not None

    def open(self, run: RunInfo) -> None:
        self._run = self._swanlab.get_run() if self._swanlab.has_run() else None
        if self._run is not None:
            self._pictures = RunPictures(self._swanlab.Html, run)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._write(metrics, step)

    def log_rows(self, rows: Sequence[Row]) -> None:
        for row in rows:
            pictures = {} if self._pictures is None else self._pictures.row(row.all, row.step)
            self._write({**row.metrics, **pictures}, row.step)

    def log_figure(self, key: str, svg: str, step: int) -> None:
        self._write({key: self._swanlab.Html(svg)}, step)

    def log_heatmap(self, key: str, heatmap: Heatmap, step: int) -> None:
        if self._pictures is not None:
            self._pictures.heatmap(key, heatmap)  # as a picture alone, with a later row

    def alert(self, alert: Alert) -> None:
        if self._pictures is not None:
            self._pictures.alert(alert)
        if alert.notify:
            advice = f" {alert.advice}" if alert.state == "firing" and alert.advice else ""
            text = self._swanlab.Text(f"{alert.title} (step {alert.step}): {alert.message}{advice}")
            self._write({f"rldk/alerts/{alert.rule}": text}, alert.step)

    def status(self, status: str, metrics: Mapping[str, float], step: int) -> None:
        """At the end come the last pictures and the report."""
        if status in ENDED and self._pictures is not None:
            self._write(self._pictures.at_end(status, self._joined_run().name), step)

    def close(self) -> None:
        """Forget the run: one tracker may serve one training after another."""
        self._run = self._pictures = None

    def _write(self, values: Mapping[str, Any], step: int) -> None:
        if values:
            self._joined_run().log(dict(values), step=step)

    def _joined_run(self) -> Any:
        if self._run is None or not self._run.alive:
            raise RejectedError("no SwanLab run is open")
        return self._run


class SwanLabBackend(Backend):
    """See `SwanLabTracker`."""

    kind = SwanLabTracker
    title: ClassVar[str] = "SwanLab"
    packages: ClassVar[tuple[str, ...]] = ("swanlab",)
    install: ClassVar[str] = INSTALL
    callback: ClassVar[str] = "SwanLabCallback"

    def joins(self, callback: Any) -> bool:
        """An older client has neither pages nor a way to ask for its run; it is served through the callback."""
        return hasattr(sys.modules.get("swanlab"), "Html") and super().joins(callback)

    def is_open(self) -> bool:
        swanlab = sys.modules.get("swanlab")
        return swanlab is not None and bool(getattr(swanlab, "has_run", bool)())
