"""Any other backend of `report_to` (Comet, ClearML, ...), through its own transformers callback."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.backend import Backend
from rldk_tracking.trackers.base import Tracker


class ReporterTracker(Tracker):
    """Calls the callback's `on_log` as the trainer does, on the training thread: such callbacks expect no other.

    Most callbacks put `train/` before the names of our series, as before those of the trainer.

    Args:
        callback: an instance of a transformers integration callback that sits in the trainer.
    """

    name: ClassVar[str] = "reporter"
    ends_with_trainer: ClassVar[bool] = True

    def __init__(self, callback: Any) -> None:
        self.callback = callback
        self._run: RunInfo | None = None

    @property
    def joined(self) -> bool:
        return self._run is not None and self._run.state is not None

    def open(self, run: RunInfo) -> None:
        self._run = run

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        if self._run is None:
            raise RuntimeError("ReporterTracker must be opened before it is written to")
        state = self._run.state
        if state.global_step != step:
            # The callback takes the step from the state, which may have moved on since the row was made.
            state = copy.copy(state)
            state.global_step = step
        self.callback.on_log(self._run.args, state, self._run.control, logs=dict(metrics))


class ReporterBackend(Backend):
    """See `ReporterTracker`."""

    kind = ReporterTracker
    title: ClassVar[str] = "any other name of report_to"

    def joins(self, callback: Any) -> bool:
        from transformers import TrainerCallback
        from transformers.integrations import integration_utils

        # "rldk" is our own entry in the same table.
        known = tuple(kind for name, kind in integration_utils.INTEGRATION_TO_CALLBACK.items() if name != "rldk")
        # Some integrations (CodeCarbon, Flyte) take no series.
        return isinstance(callback, known) and type(callback).on_log is not TrainerCallback.on_log

    def tracker(self, callback: Any = None) -> Tracker:
        return ReporterTracker(callback)

    def check(self, versions: Mapping[str, str | None]) -> tuple[bool, str] | None:
        return (True, "through its transformers callback") if versions.get("transformers") is not None else None
