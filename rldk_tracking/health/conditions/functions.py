"""A condition on single reward functions, of which there may be any number."""

from __future__ import annotations

from typing import ClassVar

from rldk_tracking.health.conditions.base import Condition, Finding, Row

NAME = "<name>"


class SilentFunction(Condition):
    """Breached where a reward function has scored nothing in so many rollouts in a row.

    Args:
        keys: the share of completions that a function did not score, with `<name>` for the function's name.
        rollouts: how many in a row. A function that belongs to a part of the data has none of it in some of them.
    """

    STATE: ClassVar[tuple[str, ...]] = (*Condition.STATE, "silent")

    def __init__(self, keys: tuple[str, ...], *, rollouts: int = 20) -> None:
        super().__init__(keys)
        self.rollouts = rollouts
        self._before, _, self._after = keys[0].partition(NAME)
        self.silent: dict[str, float] = {}
        """Function to the rollouts since it scored something."""

    def judge(self, step: int, row: Row) -> Finding | None:
        """Count on for each function of the row."""
        shares = {
            key[len(self._before) : -len(self._after)]: share
            for key, share in row.items()
            if key.startswith(self._before) and key.endswith(self._after)
        }
        if not shares:
            return None
        for name, share in shares.items():
            self.silent[name] = self.silent.get(name, 0.0) + 1.0 if share >= 1.0 else 0.0
        name = max(self.silent, key=lambda one: self.silent[one])
        longest = self.silent[name]
        functions = ", ".join(one for one, count in self.silent.items() if count >= self.rollouts)
        return Finding(
            breached=longest >= self.rollouts,
            clear=longest < self.rollouts,
            value=longest,
            threshold=float(self.rollouts),
            evidence={"functions": functions or name},
            key=f"{self._before}{name}{self._after}",
        )
