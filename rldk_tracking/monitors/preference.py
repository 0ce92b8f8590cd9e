"""Preference training (DPO, KTO, ORPO, CPO and relatives): drift of the log-probabilities from the first steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from rldk_tracking.metrics.preference import drift
from rldk_tracking.monitors.base import Monitor
from rldk_tracking.run import Run

BASELINE_STEPS = 5
"""Logged steps whose mean is what drift is measured from: single steps of a small batch differ by several nats."""

_DRIFTING = ("rldk/preference/chosen_logps", "rldk/preference/rejected_logps")


class PreferenceMonitor(Monitor):
    """Adds `rldk/preference/{chosen,rejected}_logps_drift` where the trainer logs the log-probabilities."""

    tasks: ClassVar[tuple[str, ...]] = ("preference",)

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._first: dict[str, list[float]] = {}
        self._claimed = False

    def begin(self, run: Run, trainer: Any, args: Any, model: Any, optimizer: Any) -> None:
        self._claimed = run.claim("preference", self)

    def collect(self, run: Run, step: int, logs: Mapping[str, Any]) -> None:
        if not self._claimed:
            return
        for key in _DRIFTING:
            value = run.part.scalars.get(key)
            if value is None:
                continue
            first = self._first.setdefault(key, [])
            if len(first) < BASELINE_STEPS:
                first.append(float(value))
            else:
                run.add({f"{key}_drift": drift(float(value), sum(first) / len(first))})
