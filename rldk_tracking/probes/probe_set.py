"""The probes of one run. A fault in one of them costs what that one sees, and is logged once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rldk_tracking.isolation import Shield
from rldk_tracking.probes.base import Probe, StepData, Training
from rldk_tracking.ranks import Merged
from rldk_tracking.row import finite


class ProbeSet:
    """Probes in the order in which they were added, each type once.

    Args:
        shield: keeps their faults from the trainer.
    """

    def __init__(self, shield: Shield) -> None:
        self._shield = shield
        self._probes: list[Probe] = []

    def __iter__(self) -> Iterator[Probe]:
        return iter(self._probes)

    @property
    def rows_per_rank(self) -> int:
        """The most completions that this rank delivers in a step; 0 where no probe delivers any."""
        return max((probe.rows_per_rank for probe in self._probes), default=0)

    @property
    def honours_stop(self) -> bool:
        """Whether the trainer obeys the stop flag, as far as a probe knows."""
        return all(probe.honours_stop for probe in self._probes)

    def add(self, probes: Sequence[Probe], training: Training) -> list[Probe]:
        """Begin those of which there is none of the same type yet; returns those that look, in the same order."""
        found = []
        for probe in probes:
            known = next((other for other in self._probes if type(other) is type(probe)), None)
            if known is None:
                self._probes.append(probe)
                with self._shield.at(f"{type(probe).__name__} at train begin"):
                    probe.begin(training)
            found.append(known or probe)
        return found

    def before_step(self, step: int) -> dict[str, float]:
        """What must be known before the step after `step`."""
        found: dict[str, float] = {}
        for probe in self._probes:
            with self._shield.at(f"{type(probe).__name__} before a step"):
                found.update(probe.before_step(step))
        return found

    def collect(self, data: StepData) -> None:
        """Add what was seen of a step."""
        for probe in self._probes:
            with self._shield.at(f"{type(probe).__name__} at a step"):
                probe.collect(data)

    def derive(self, step: int, row: Mapping[str, float], merged: Merged) -> dict[str, float]:
        """The row with what follows from the step over all ranks and those before it."""
        whole = dict(row)
        for probe in self._probes:
            with self._shield.at(f"{type(probe).__name__} at a row"):
                whole.update(finite(probe.derive(step, whole, merged)))
        return whole

    def saved(self, step: int) -> None:
        """A checkpoint was written."""
        for probe in self._probes:
            with self._shield.at(f"{type(probe).__name__} at a save"):
                probe.saved(step)

    def end(self) -> dict[str, float]:
        """Take out what was installed; returns what was known only now."""
        found: dict[str, float] = {}
        for probe in self._probes:
            with self._shield.at(f"{type(probe).__name__} at train end"):
                found.update(probe.end())
        return found
