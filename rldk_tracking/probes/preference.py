"""How far preference training has moved from its reference, from what the trainer logs."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from rldk_tracking.metrics.preference import DRIFTS, drifts
from rldk_tracking.probes.base import Probe, StepData, Training
from rldk_tracking.sources.wrapping import SCORING

logger = logging.getLogger(__name__)


class PreferenceProbe(Probe):
    """Adds `rldk/preference/{chosen,rejected}_logps_drift` where the trainer logs implicit rewards."""

    def __init__(self) -> None:
        self._beta: float | None = None
        self._missing: str | None = None

    def reads(self, training: Training) -> bool:
        """A trainer that scores what it samples, as GRPO does, has no implicit rewards."""
        return not callable(getattr(training.trainer, SCORING, None))

    def begin(self, training: Training) -> None:
        trainer = training.trainer
        beta = getattr(trainer, "beta", None)
        self._beta = float(beta) if isinstance(beta, (int, float)) and beta > 0 else None
        name = "this training" if trainer is None else type(trainer).__name__
        self._missing = None if self._beta is not None else f"the beta of {name} is not known"
        # Trainers without a reference lack the attribute. With adapters it is None, and the bare model the reference.
        if not hasattr(trainer, "ref_model") or getattr(trainer, "reference_free", False):
            self._missing = f"{name} has no reference"

    def collect(self, data: StepData) -> None:
        rewards = {key: float(data.scalars[key]) for key in DRIFTS if key in data.scalars}
        if not rewards:
            return
        if self._beta is not None and self._missing is None:
            data.add(drifts(rewards, self._beta))
        elif self._missing:
            logger.warning("rldk: no rldk/preference/*_logps_drift, since %s.", self._missing)
            self._missing = ""

    def end(self) -> Mapping[str, float]:
        self._beta = self._missing = None
        return {}
