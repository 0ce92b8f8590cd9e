"""An estimate that is below zero by more than its own error."""

from __future__ import annotations

from rldk_tracking.health.conditions.base import Condition, Finding, Row


class BelowZero(Condition):
    """Breached where the value is below 0 by `z` of its standard errors and by `floor`.

    Args:
        error_key: the standard error of the value. Rows without it are not judged unless `floor_alone` is given.
        z: standard errors.
        floor: smallest distance from 0 that matters.
        floor_alone: the distance that is enough where no standard error is known.
    """

    def __init__(
        self,
        keys: tuple[str, ...],
        *,
        error_key: str,
        z: float = 4.0,
        floor: float = 0.0,
        floor_alone: float | None = None,
    ) -> None:
        super().__init__(keys)
        self.error_key, self.z, self.floor, self.floor_alone = error_key, z, floor, floor_alone

    def judge(self, step: int, row: Row) -> Finding | None:
        """Hold the value to its error."""
        value = self.read(row)
        if value is None:
            return None
        error = row.get(self.error_key)
        if error is not None:
            limit = -max(self.z * error, self.floor)
        elif self.floor_alone is not None:
            limit = -self.floor_alone
        else:
            return None
        return Finding(value < limit, value >= limit / 2, value, limit, key=self.key)
