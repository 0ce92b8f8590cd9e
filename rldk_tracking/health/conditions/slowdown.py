"""A run that takes longer for the same work, for so long that it matters."""

from __future__ import annotations

from typing import ClassVar

from rldk_tracking.health.conditions.base import Finding, Row
from rldk_tracking.health.conditions.shift import Shift


class Slowdown(Shift):
    """Breached where a rate has shifted down (see `Shift`) for `seconds` of wall time and for `rows` rows.

    It must have been at its usual for as long before, in wall time.

    Steps are no measure of how long something lasts: in a run with ten steps a second, another job on the machine spans
    thousands of them and is gone before anyone could have looked. The wall time is that of the rows: the time of a step
    times the steps since the row before. Where rows do not tell it, their number alone counts.

    Args:
        keys, share, agree, minimum, window, accept_after: as for `Shift`, on the logarithm of the rate. A new level is
            accepted only after it was told.
        seconds, rows: how long the rate must have been low.
        seconds_key: where the time of a step is found.
    """

    STATE: ClassVar[tuple[str, ...]] = (*Shift.STATE, "slow", "usual", "count", "before")

    def __init__(
        self,
        keys: tuple[str, ...],
        *,
        share: float = 1.0,
        agree: str | None = None,
        minimum: int = 24,
        window: int = 64,
        accept_after: int | None = None,
        seconds: float = 600.0,
        rows: int = 15,
        seconds_key: str = "rldk/throughput/step_seconds",
    ) -> None:
        super().__init__(
            keys,
            direction="down",
            log=True,
            share=share,
            agree=agree,
            minimum=minimum,
            window=window,
            accept_after=accept_after,
        )
        self.seconds, self.rows, self.seconds_key = seconds, rows, seconds_key
        self.slow = self.usual = 0.0
        self.count = 0
        self.before: int | None = None

    def judge(self, step: int, row: Row) -> Finding | None:
        """Follow the rate, and for how long it has been what it is."""
        elapsed = row.get(self.seconds_key)
        steps = 1 if self.before is None else max(1, step - self.before)
        finding = super().judge(step, row)
        if finding is None:
            return None
        self.before = step
        passed = 0.0 if elapsed is None else elapsed * steps
        if finding.breached:
            self.slow, self.count = self.slow + passed, self.count + 1
        else:
            self.slow, self.count = 0.0, 0
            self.usual += passed
        long = elapsed is None or min(self.slow, self.usual) >= self.seconds
        finding.breached = finding.breached and long and self.count >= self.rows
        return finding

    def _learn(self, level: float, breached: bool, standard: float) -> None:
        if breached and 0.0 < self.slow < self.seconds:
            self.baseline.freeze()
        else:
            super()._learn(level, breached, standard)
