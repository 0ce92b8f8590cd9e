"""A value that grows steadily and has come far."""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from typing import ClassVar

from rldk_tracking.health.conditions.base import Condition, Finding, Row


class Growth(Condition):
    """Breached where nearly every block of observations is above the one before it, and the rise is large.

    Args:
        block: observations whose minimum makes up one block; the minimum, because a cache that fills and empties is
            no leak.
        blocks: how many blocks in a row must have risen.
        share: the rise over those blocks, as a share of the first.
        floor: the rise over those blocks in the unit of the value.
    """

    STATE: ClassVar[tuple[str, ...]] = (*Condition.STATE, "count", "lowest", "lows")

    def __init__(
        self, keys: tuple[str, ...], *, block: int = 10, blocks: int = 6, share: float = 0.1, floor: float = 0.0
    ) -> None:
        super().__init__(keys)
        self.block, self.share, self.floor = block, share, floor
        self.count = 0
        self.lowest: float | None = None
        self.lows: deque[float] = deque(maxlen=blocks + 1)

    def judge(self, step: int, row: Row) -> Finding | None:
        """Close a block when it is full, and look at the blocks."""
        value = self.read(row)
        if value is None:
            return None
        self.lowest = value if self.lowest is None else min(self.lowest, value)
        self.count += 1
        if self.count == self.block:
            self.lows.append(self.lowest)
            self.count, self.lowest = 0, None
        if len(self.lows) < (self.lows.maxlen or 0):
            return Finding(False, True, value, key=self.key)
        lows = list(self.lows)
        rising = all(later > earlier for earlier, later in pairwise(lows))
        rise = lows[-1] - lows[0]
        limit = max(self.floor, self.share * abs(lows[0]))
        return Finding(rising and rise > limit, not rising, value, lows[0] + limit, False, {"rise": rise}, self.key)
