"""The parts that a reward is the sum of: whether one of them never gave anything, or fell."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from rldk_tracking.health.conditions.base import Row
from rldk_tracking.health.detectors import Stateful, remembered
from rldk_tracking.health.detectors.baseline import Change

FUNCTION = "rldk/reward/function/"
MEAN, WEIGHT = re.compile(FUNCTION + "(.+)/mean"), FUNCTION + "{}/weight"
PENALTY = re.compile(r"penal|punish|cost|violat|overlong|too_long|repeti|repeat|toxic|unsafe|error|invalid", re.I)
"""Names of parts that are there to take away: 0 is the best that they can be."""
ROWS = 20
"""Values of a part before it is known that it gives nothing."""
FELL = 2.0
"""Standard deviations of its noise beyond which a fall is one."""
HALF = 0.5
"""Of its start, below which a part has fallen."""


@lru_cache(maxsize=256)
def parts_of(series: tuple[str, ...]) -> list[tuple[str, str, str]]:
    """Of a row's series those of parts that are there to give: their names, means and weights."""
    found = [(match[1], key) for key in series if key.startswith(FUNCTION) and (match := MEAN.fullmatch(key))]
    return [(name, key, WEIGHT.format(name)) for name, key in found if not PENALTY.search(name)]


@dataclass(eq=False)
class Parts(Stateful):
    """Follows the mean of every reward function that is a part of the reward.

    A part that is never above 0 takes away (a penalty), and so does one whose weight is below 0 or whose name says it;
    one of weight 0 is no part. Of the others, one that is 0 in every row while another gives something never gave
    anything, and one below half of its start has fallen.
    """

    changes: dict[str, Change] = remembered(dict)
    highest: dict[str, float] = remembered(dict)
    lowest: dict[str, float] = remembered(dict)

    def add(self, row: Row) -> None:
        """Take what the row says of the parts."""
        for name, key, weight in parts_of(tuple(row)):
            if row.get(weight, 1.0) <= 0.0:
                continue
            value = row[key]
            if name not in self.changes:
                self.changes[name] = Change(early=3, growing=0.1)
                self.highest[name] = self.lowest[name] = value
            elif value > self.highest[name]:
                self.highest[name] = value
            elif value < self.lowest[name]:
                self.lowest[name] = value
            self.changes[name].add(value)

    @property
    def known(self) -> bool:
        """Whether there are several parts, each seen often enough."""
        return len(self.changes) > 1 and min(change.count for change in self.changes.values()) >= ROWS

    @property
    def lost(self) -> str | None:
        """The name of a part that never gave anything, or fell, and which of it; None where there is none."""
        if not self.known or max(self.highest.values()) <= 0.0:
            return None
        for name, change in self.changes.items():
            if self.highest[name] == self.lowest[name] == 0.0:
                return f"{name}, which has always been 0"
            if self.lowest[name] < 0.0 or change.mean >= HALF * change.start:
                continue
            if change.sigmas is not None and change.sigmas < -FELL:
                return f"{name}, which fell to {change.mean:.2g} from {change.start:.2g}"
        return None

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned: its parts are known from it only."""
        self.changes = {name: Change(early=3, growing=0.1) for name in state.get("changes", ())}
        super().load_state(state)
