"""A step that is over: what was seen of it, and the row that this amounts to.

Whatever is on the host already becomes a number at once, on the training thread, so that it can be on disk before the
next step begins. The rest, and where the device would have to be waited for all of it, is read beside the training.
"""

from __future__ import annotations

from collections.abc import Mapping

from rldk_tracking.ahead import Ahead
from rldk_tracking.isolation import Shield
from rldk_tracking.ranks import Merged, Part, Ranks
from rldk_tracking.readings import Readings, reduced
from rldk_tracking.row import ProbeReader, draft_of, row_of

PATIENCE = 0.002
"""Seconds that the training waits for a rollout that is just being read. Only steps of some milliseconds are so short
that it is not through by their end."""


class Step:
    """What was handed over of one step, until `row` has made it a row.

    Args:
        ranks: the exchange with the other ranks.
        part: the numbers that are known.
        readings: what is still to be read.
        ahead: what was computed of the rollout before the step was over, where it was.
        overhead: joins where there is anything at all.
        read_probe: turns the optimizer probe's numbers into keys.
    """

    def __init__(
        self,
        ranks: Ranks,
        part: Part,
        readings: Readings,
        ahead: Ahead | None = None,
        overhead: Mapping[str, float] | None = None,
        read_probe: ProbeReader | None = None,
    ) -> None:
        self._ranks = ranks
        self._part = part
        self._readings = readings
        self._ahead = ahead
        self._overhead = {} if overhead is None else overhead
        self._read_probe = read_probe
        self._merged: Merged | None = None
        self._row: dict[str, float] = {}

    @property
    def is_whole(self) -> bool:
        """Whether the row is known; then `row` only gives it."""
        return self._merged is not None

    def at_once(self, shield: Shield, device_is_idle: bool) -> dict[str, float]:
        """What can be known of the step now; on the training thread. With several ranks this is a collective.

        Args:
            shield: for the faults of the reading.
            device_is_idle: whether reading from the device waits for nothing but the reading.
        """
        if self._part.scalars or (self._ahead is not None and self._ahead.row):
            self._part.scalars.update(self._overhead)
        if self._ranks.world_size > 1:  # a collective belongs on the training thread, in the trainer's own order
            columns = None if self._ahead is None else self._ahead.part(shield)
            self._merged = self._ranks.merge(reduced(self._part, self._readings, self._overhead, shield, columns))
            self._row = row_of(self._merged, self._read_probe)
        elif self._ahead is not None and device_is_idle and self._ahead.wait(PATIENCE):
            self._read_alone(self._ahead, shield)
        else:
            return draft_of([self._part.scalars], {} if self._ahead is None else self._ahead.row)
        return dict(self._row)

    def row(self, shield: Shield) -> tuple[Merged, dict[str, float]]:
        """The step over all ranks, and every key that exists for it; beside the training where it is not whole.

        Args:
            shield: for the faults of the reading.
        """
        if self._merged is None and self._ahead is not None and self._ahead.is_done:
            self._read_alone(self._ahead, shield)
        if self._merged is None:
            self._merged = self._ranks.merge(reduced(self._part, self._readings, self._overhead, shield))
            self._row = row_of(self._merged, self._read_probe)
        return self._merged, dict(self._row)

    def _read_alone(self, ahead: Ahead, shield: Shield) -> None:
        """What is left to be read where the rollout has been."""
        self._merged = ahead.join(
            self._ranks.merge(reduced(self._part, self._readings, self._overhead, shield, Part()))
        )
        self._row = row_of(self._merged, self._read_probe, ahead.row)
