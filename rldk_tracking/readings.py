"""What is still to be read of a step when it is over, and the reading, which takes place beside the training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from rldk_tracking.metrics import catalogue
from rldk_tracking.ranks import Part
from rldk_tracking.shield import Shield
from rldk_tracking.sources.base import Observation

Measurement = Callable[[], Mapping[str, float | Tensor]]
"""Reads single numbers of a step, key to value."""


@dataclass(frozen=True)
class Readings:
    """What is still to be read of a step that is over.

    Attributes:
        observation: the rollout and the update.
        measurements: give single numbers.
        pending: gives the optimizer probe's numbers.
    """

    observation: Observation
    measurements: Sequence[Measurement]
    pending: Callable[[], Tensor] | None


def reduced(part: Part, readings: Readings, overhead: Mapping[str, float], shield: Shield) -> Part:
    """The part with all that was to be read, per-sequence columns computed where their tensors lie.

    What cannot be read is missing, the rest is there: a rank that failed here must not leave the others waiting for it
    in the exchange that follows. `overhead` joins where there is anything at all.
    """
    rollout = update = None
    with shield.at("reading a rollout"):
        rollout, update = readings.observation.rollout, readings.observation.update
    for measurement in readings.measurements:
        with shield.at("measuring"):
            part.scalars.update(measurement())
    if part.scalars or rollout is not None or update is not None:
        part.scalars.update(overhead)
    if rollout is not None:
        with shield.at("reducing a rollout"):
            part.rollout = catalogue.rollout_columns(rollout)
            part.tails = catalogue.rollout_tails(rollout)
            part.names = catalogue.names(rollout)
    if update is not None:
        with shield.at("reducing an update"):
            part.update = catalogue.update_columns(update)
    if readings.pending is not None:
        with shield.at("reading the optimizer"):
            part.probe = readings.pending()
    return part
