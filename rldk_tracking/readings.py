"""What is still to be read of a step when it is over, and the reading."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from rldk_tracking.isolation import Shield
from rldk_tracking.metrics import catalogue
from rldk_tracking.ranks import Part
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

    observation: Observation = field(default_factory=Observation)
    measurements: Sequence[Measurement] = ()
    pending: Callable[[], Tensor] | None = None


def columns_of(observation: Observation, shield: Shield, pause: Callable[[], None] = lambda: None) -> Part:
    """Per-sequence columns of the rollout and the update, computed where their tensors lie, of what can be read.

    Args:
        observation: gives them.
        shield: keeps the faults.
        pause: is called between two pieces of work.
    """
    part = Part()
    rollout = update = None
    with shield.at("reading a rollout"):
        rollout, update = observation.rollout, observation.update
    if rollout is not None:
        with shield.at("reducing a rollout"):
            for columns in catalogue.each_columns(rollout):
                part.rollout.update(columns)
                pause()
            part.tails = catalogue.rollout_tails(rollout)
            part.names = catalogue.names(rollout)
    pause()
    if update is not None:
        with shield.at("reducing an update"):
            part.update = catalogue.update_columns(update)
    return part


def reduced(
    part: Part, readings: Readings, overhead: Mapping[str, float], shield: Shield, columns: Part | None = None
) -> Part:
    """The part with all that was to be read.

    What cannot be read is missing, the rest is there: a rank that failed here must not leave the others waiting for it
    in the exchange that follows. `overhead` joins where there is anything at all.

    Args:
        columns: those of the rollout and the update, where they have been computed already.
    """
    columns = columns_of(readings.observation, shield) if columns is None else columns
    part.rollout, part.tails, part.names, part.update = columns.rollout, columns.tails, columns.names, columns.update
    for measurement in readings.measurements:
        with shield.at("measuring"):
            part.scalars.update(measurement())
    if part.scalars or part.rollout or part.update:
        part.scalars.update(overhead)
    if readings.pending is not None:
        with shield.at("reading the optimizer"):
            part.probe = readings.pending()
    return part
