"""What is computed of a step before it is over: the numbers of its rollout.

A rollout is complete when the step's last backward pass begins, in which the training thread has no use for Python.
Computed there, its numbers are known when the step ends: they can be kept on disk at once, and neither the events at
the step's end nor the beginning of the next step share the interpreter with them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from rldk_tracking.isolation import Shield, give_way
from rldk_tracking.ranks import Merged, Part, Ranks
from rldk_tracking.readings import columns_of
from rldk_tracking.row import computed
from rldk_tracking.sources.base import Observation


class Ahead:
    """The rollout and the update of a step in progress.

    Args:
        observation: gives them.
        ranks: the exchange with the other ranks, which this takes no part in.
        shield: for the faults of the reading, on the thread that computes.
        is_awaited: whether somebody waits for that thread, which otherwise lets the training pass first.

    Attributes:
        row: key to value, empty until it is computed. With several ranks it stays so: the others' rows are not known.
    """

    def __init__(
        self, observation: Observation, ranks: Ranks, shield: Shield, is_awaited: Callable[[], bool] = lambda: False
    ) -> None:
        self._observation = observation
        self._ranks = ranks
        self._shield = shield
        self._is_awaited = is_awaited
        self._lock = threading.Lock()
        self._wanted = False
        self._done = threading.Event()
        self._part: Part | None = None
        self._merged: Merged | None = None
        self.row: dict[str, float] = {}

    @property
    def is_done(self) -> bool:
        """Whether `row` and what `join` gives are there; never with several ranks."""
        return self._merged is not None

    def belongs_to(self, observation: Observation) -> bool:
        """Whether this is what its source saw of the step when that was over."""
        return observation.made is self._observation.made

    def compute(self) -> None:
        """Do what can be done before the step is over, beside the training."""
        with self._lock:
            if self._part is None:
                self._part = columns_of(self._observation, self._shield, self._pause)
        if self._ranks.world_size == 1:
            self._pause()
            merged = self._ranks.merge(self._part)
            self.row = computed(merged, self._pause)
            self._merged = merged
            self._done.set()

    def wait(self, seconds: float) -> bool:
        """Whether it is done, or is within so many seconds; meanwhile it lets nobody pass."""
        self._wanted = True
        return self._done.wait(seconds)

    def part(self, shield: Shield) -> Part:
        """The columns, where their tensors lie. If they are being computed this waits for them.

        Args:
            shield: for the faults of the reading, where it takes place now and on this thread.
        """
        self._wanted = True
        with self._lock:
            if self._part is None:
                self._part = columns_of(self._observation, shield)
            return self._part

    def join(self, merged: Merged) -> Merged:
        """The step's single numbers together with these tables."""
        if self._merged is None:
            return merged
        return replace(merged, rollout=self._merged.rollout, update=self._merged.update)

    def _pause(self) -> None:
        give_way(lambda: self._wanted or self._is_awaited())
