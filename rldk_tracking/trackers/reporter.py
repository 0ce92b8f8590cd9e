"""Any other backend of `report_to` (TensorBoard, Trackio, Comet, ...), through its own transformers callback."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

from rldk_tracking.charts.tensorboard import layout
from rldk_tracking.health.alert import Alert
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.base import Tracker


class ReporterTracker(Tracker):
    """Calls the callback's `on_log` as the trainer does, on the training thread: such callbacks expect no other.

    Args:
        callback: an instance of a transformers integration callback that sits in the trainer.
    """

    name: ClassVar[str] = "reporter"

    def __init__(self, callback: Any) -> None:
        self.callback = callback
        self._run: RunInfo | None = None
        self._writer: Any = None
        self._seen: set[str] = set()

    @property
    def joined(self) -> bool:
        return self._run is not None and self._run.state is not None

    def open(self, run: RunInfo) -> None:
        self._run = run
        self._seen.clear()
        self._writer = getattr(self.callback, "tb_writer", None)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        if self._run is None:
            raise RuntimeError("ReporterTracker must be opened before it is written to")
        state = self._run.state
        if state.global_step != step:
            # The callback takes the step from the state, which may have moved on since the row was made.
            state = copy.copy(state)
            state.global_step = step
        self.callback.on_log(self._run.args, state, self._run.control, logs=dict(metrics))
        self._lay_out(metrics, self._run.trainer)

    def _lay_out(self, metrics: Mapping[str, float], trainer: str) -> None:
        """TensorBoard's page of sections, anew where there are series that it does not have yet."""
        writer = getattr(self.callback, "tb_writer", None)
        if writer is None or metrics.keys() <= self._seen:
            return
        self._seen.update(metrics)
        chosen = layout(self._seen, trainer)
        if chosen and hasattr(writer, "add_custom_scalars"):
            writer.add_custom_scalars(chosen)

    def alert(self, alert: Alert) -> None:
        """A text beside the series where the backend has texts (TensorBoard); elsewhere the series speak alone."""
        writer = getattr(self.callback, "tb_writer", None)
        if writer is not None:
            writer.add_text(
                "rldk/alerts", f"{alert.title} (step {alert.step}): {alert.message} {alert.advice}", alert.step
            )
            writer.flush()

    def close(self) -> None:
        writer = getattr(self.callback, "tb_writer", None)
        if writer is not None and writer is not self._writer:
            # The callback had closed its writer at train end and made another for our last row.
            writer.close()
            self.callback.tb_writer = None
