"""When to make pictures anew: early, so that a short run has them, and then ever less often.

A backend keeps every version, or has to be sent the whole picture, so their number must not grow with the run.
"""

from __future__ import annotations

FIRST = 5
EVERY = 25


class Cadence:
    """Counts rows.

    Args:
        first: the row with which the first version comes.
        every: rows between two versions; later on a tenth of the rows so far.
    """

    def __init__(self, first: int = FIRST, every: int = EVERY) -> None:
        self._every = every
        self._rows = 0
        self._next = self._soonest = first

    def count(self) -> None:
        """A row has come."""
        self._rows += 1

    @property
    def due(self) -> bool:
        """Whether it is time for a version."""
        return self._rows >= self._next

    @property
    def possible(self) -> bool:
        """Whether a version may come before its time, because there is news that should not wait."""
        return self._rows >= self._soonest

    def done(self) -> None:
        """A version was made."""
        self._soonest = self._rows + self._every
        self._next = max(self._soonest, self._rows + self._rows // 10)
