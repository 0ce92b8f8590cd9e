"""Preference training (DPO, KTO, ORPO, CPO and relatives): drift of the log-probabilities from the first steps."""

from __future__ import annotations

from rldk_tracking.metrics.preference import drift
from rldk_tracking.probes.base import Probe, StepData, Training

BASELINE_STEPS = 5
"""Logged steps whose mean is what drift is measured from: single steps of a small batch differ by several nats."""

_DRIFTING = ("rldk/preference/chosen_logps", "rldk/preference/rejected_logps")


class PreferenceProbe(Probe):
    """Adds `rldk/preference/{chosen,rejected}_logps_drift` where the trainer logs the log-probabilities."""

    def __init__(self) -> None:
        self._first: dict[str, list[float]] = {}

    def begin(self, training: Training) -> None:
        self._first.clear()

    def collect(self, data: StepData) -> None:
        for key in _DRIFTING:
            value = data.scalars.get(key)
            if value is None:
                continue
            first = self._first.setdefault(key, [])
            if len(first) < BASELINE_STEPS:
                first.append(float(value))
            else:
                data.add({f"{key}_drift": drift(float(value), sum(first) / len(first))})
