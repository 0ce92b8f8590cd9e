"""Several values with a limit each."""

from __future__ import annotations

from rldk_tracking.health.conditions.base import Condition, Finding, Row


class Levels(Condition):
    """Breached where any key is above its limit; what is reported is the one that is furthest above, in proportion.

    Args:
        limits: key to limit, above 0.
        clear: share of the limit below which every value is clear.
    """

    def __init__(self, keys: tuple[str, ...], *, limits: dict[str, float], clear: float = 1.0) -> None:
        super().__init__(keys)
        if not limits or not all(limit > 0 for limit in limits.values()) or set(limits) - set(keys):
            raise ValueError("limits must give a limit above 0 to some of the rule's keys.")
        self.limits, self.share = dict(limits), clear

    def judge(self, step: int, row: Row) -> Finding | None:
        """Hold each value that is there to its limit."""
        shares = {key: row[key] / limit for key, limit in self.limits.items() if key in row}
        if not shares:
            return None
        worst = max(shares, key=lambda key: shares[key])
        evidence = {key: row[key] for key in shares if key != worst}
        clear = shares[worst] <= self.share
        return Finding(shares[worst] > 1.0, clear, row[worst], self.limits[worst], False, evidence, worst)
