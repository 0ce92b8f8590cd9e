"""A training of which nothing is heard any more.

Keys, read by `rldk_tracking.keys`:

    rldk/run/limit_seconds | s | host | max over ranks
        For how long nothing may be heard in the phase that the training is in. Judged beside it, as the silence.
        = max(threshold, times x 99th percentile of how long the phase took in earlier steps), or `first` without any
"""

from __future__ import annotations

from rldk_tracking.health.conditions.base import Condition, Finding, Row

LIMIT_KEY = "rldk/run/limit_seconds"


class Silence(Condition):
    """Breached where nothing was heard of a training for longer than the phase that it is in may take.

    The limit follows from how long this run's own phases took, so it is computed where they are timed, in the training
    process, by `rldk_tracking.journal.heartbeat`; the row carries it. A row without a limit is never a breach.

    Args:
        threshold: seconds below which no silence is a breach.
        times: how often the 99th percentile of the phase's own durations may pass.
        first: limit in seconds for a phase that no earlier step had, as for a first compilation or evaluation.
        critical: how often the limit may pass before the breach is critical.
        stacks: whether the training process writes down where its threads stand shortly before the limit.

    Raises:
        ValueError: a number is not above 0, or `critical` is below 1.
    """

    def __init__(
        self,
        keys: tuple[str, ...],
        *,
        threshold: float,
        times: float = 10.0,
        first: float = 1800.0,
        critical: float = 2.0,
        stacks: bool = True,
    ) -> None:
        super().__init__(keys)
        if not min(threshold, times, first) > 0 or not critical >= 1:
            raise ValueError("threshold, times and first must be above 0, and critical at least 1.")
        self.threshold, self.times, self.first, self.critical = threshold, times, first, critical
        self.stacks = stacks

    def judge(self, step: int, row: Row) -> Finding | None:
        """Compare the silence with the limit that the row carries."""
        silent = self.read(row)
        if silent is None:
            return None
        limit = row.get(LIMIT_KEY)
        breached = limit is not None and silent > limit
        critical = limit is not None and silent > self.critical * limit
        return Finding(breached, not breached, silent, limit, critical, key=self.key, judged=limit is not None)
