"""A policy that has lost its variety without having solved the task."""

from __future__ import annotations

from typing import ClassVar

from rldk_tracking.health.conditions.base import Condition, Finding, Row
from rldk_tracking.health.detectors.baseline import median_of_sorted
from rldk_tracking.health.detectors.progress import Progress
from rldk_tracking.health.detectors.stateful import Stateful


class Share(Stateful):
    """A smoothed value as a share of the run's first values."""

    STATE: ClassVar[tuple[str, ...]] = ("first", "start", "mean")

    def __init__(self, early: int = 5, span: float = 3.0) -> None:
        self.first: list[float] = []
        self.start: float | None = None
        self.mean: float | None = None
        self.early, self.weight = early, 2.0 / (span + 1.0)

    def add(self, value: float) -> float | None:
        """The share, None while the start is not known or is not positive."""
        self.mean = value if self.mean is None else self.mean + self.weight * (value - self.mean)
        if self.start is None:
            self.first.append(value)
            if len(self.first) >= self.early:
                self.start = median_of_sorted(sorted(self.first))
        return None if self.start is None or self.start <= 0 else self.mean / self.start


class Collapse(Condition):
    """Breached where at least two of entropy, diversity and reward spread are gone and the reward does not excuse it.

    See `Progress.excuses`.

    Args:
        keys: entropy.
        remains: a share of the start at or below which a quantity is gone.
        tied: share of tied groups from which the reward spread is gone.
    """

    risk_key = "rldk/health/policy_collapse_risk"
    STATE: ClassVar[tuple[str, ...]] = (
        *Condition.STATE, "entropy", "diversity", "spread", "risk", "progress", "gone",
    )  # fmt: skip

    def __init__(
        self,
        keys: tuple[str, ...],
        *,
        remains: float = 0.1,
        tied: float = 0.9,
        diversity_keys: tuple[str, ...] = ("rldk/diversity/unique_fraction", "rldk/diversity/distinct_2"),
        spread_keys: tuple[str, ...] = ("rldk/reward/group_std_mean", "rldk/reward/std"),
        tied_key: str = "rldk/reward/group_tied_fraction",
    ) -> None:
        super().__init__(keys, zero_is_missing=True)
        self.remains, self.tied = remains, tied
        self.diversity_keys, self.spread_keys = tuple(diversity_keys), tuple(spread_keys)
        self.tied_key = tied_key
        self.entropy, self.diversity, self.spread = Share(), Share(), Share()
        self.progress = Progress()
        self.risk = None
        self.gone: dict[str, float] = {}

    def judge(self, step: int, row: Row) -> Finding | None:
        """Ask each quantity how much of its start is left."""
        value = self.read(row)
        if value is not None:
            self._note("entropy", self.entropy.add(value))
        for name, share, keys in (
            ("diversity", self.diversity, self.diversity_keys),
            ("reward spread", self.spread, self.spread_keys),
        ):
            key = next((key for key in keys if key in row), None)
            if key is not None:
                self._note(name, share.add(row[key]))
        if row.get(self.tied_key, 0.0) >= self.tied:
            self._note("reward spread", 0.0)
        self.progress.add(row)
        solved = self.progress.excuses
        if len(self.gone) < 2:
            return None
        lost = [name for name, left in self.gone.items() if left <= self.remains]
        parts = [min(1.0, max(0.0, (1.0 - left) / (1.0 - self.remains))) for left in self.gone.values()]
        self.risk = 0.0 if solved else sum(parts) / len(parts)
        breached = len(lost) >= 2 and not solved
        evidence: dict[str, float | str] = {f"{name} left": left for name, left in self.gone.items()}
        return Finding(breached, len(lost) < 2, self.risk, None, False, evidence, self.key)

    def _note(self, name: str, left: float | None) -> None:
        if left is not None:
            self.gone[name] = left
