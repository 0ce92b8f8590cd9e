"""TensorBoard: series, alerts as texts and a page of sections, in the event file of transformers' callback.

The page is the specification of the charts as a layout of "Custom Scalars": several series in one plot. A layout is a
summary like any other, without a step; the last one written is the one that is shown.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from rldk_tracking.charts.spec import sections
from rldk_tracking.health.alert import Alert
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.backend import Backend
from rldk_tracking.trackers.base import RejectedError, Tracker


def layout(keys: Collection[str], trainer: str | None = None) -> dict[str, dict[str, list[Any]]]:
    """For `SummaryWriter.add_custom_scalars`: section to title to kind and patterns, each of exactly one series.

    Args:
        keys: the series that exist, under the names of the catalogue.
        trainer: see `rldk_tracking.charts.spec.sections`.
    """
    return {
        section.name: {
            chart.title: ["Multiline", [f"^{re.escape(key)}$" for key in chart.series(keys)]]
            for chart in section.charts
        }
        for section in sections(keys, trainer)
    }


class TensorBoardTracker(Tracker):
    """Writes with the callback's `SummaryWriter`, under the names of the key catalogue.

    The callback's own `on_log` would put `train/` before every name. Series of versions that did so are
    `train/rldk/...`; both are read.

    Args:
        callback: a `transformers.integrations.TensorBoardCallback` that sits in the trainer.
    """

    name: ClassVar[str] = "tensorboard"
    ends_with_trainer: ClassVar[bool] = True
    how_to_join: ClassVar[str] = 'Give the trainer report_to="tensorboard"; it needs pip install tensorboard.'

    def __init__(self, callback: Any) -> None:
        self.callback = callback
        self._trainer = ""
        self._drawn: set[str] = set()

    @property
    def joined(self) -> bool:
        return self.callback.tb_writer is not None

    def open(self, run: RunInfo) -> None:
        self._trainer = run.trainer
        self._drawn.clear()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        writer = self._writer()
        for key, value in metrics.items():
            writer.add_scalar(key, value, step)
        if not metrics.keys() <= self._drawn:
            self._drawn.update(metrics)
            chosen = layout(self._drawn, self._trainer)
            if chosen:
                writer.add_custom_scalars(chosen)
        writer.flush()

    def alert(self, alert: Alert) -> None:
        writer = self._writer()
        text = f"{alert.title} (step {alert.step}): {alert.message} {alert.advice}"
        writer.add_text("rldk/alerts", text, alert.step)
        writer.flush()

    def _writer(self) -> Any:
        if self.callback.tb_writer is None:
            raise RejectedError("TensorBoard's event file is closed")
        return self.callback.tb_writer


class TensorBoardBackend(Backend):
    """See `TensorBoardTracker`."""

    kind = TensorBoardTracker
    title: ClassVar[str] = "TensorBoard"
    packages: ClassVar[tuple[str, ...]] = ("tensorboard",)
    install: ClassVar[str] = "pip install tensorboard"
    callback: ClassVar[str] = "TensorBoardCallback"

    def tracker(self, callback: Any = None) -> Tracker:
        return TensorBoardTracker(callback)
