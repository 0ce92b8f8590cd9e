"""A condition that a user wrote as an expression."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rldk_tracking.health.conditions.base import Condition, Finding, Row
from rldk_tracking.health.expression import Expression, ExpressionError


class Written(Condition):
    """Breached where `when` is true, clear where `clear_when` is, by default where `when` is not.

    Args:
        when: see `rldk_tracking.health.expression`.
        clear_when: likewise.

    Raises:
        ExpressionError: a text is no expression.
    """

    def __init__(self, keys: tuple[str, ...], *, when: str, clear_when: str | None = None) -> None:
        super().__init__(keys)
        self.when = _parsed("when", when)
        self.clear_when = None if clear_when is None else _parsed("clear_when", clear_when)
        self.memory = self.when.memory()
        self.clear_memory = None if self.clear_when is None else self.clear_when.memory()

    def judge(self, step: int, row: Row) -> Finding | None:
        """Take the row into the windows and ask both expressions."""
        fresh = self.memory.add(row)
        if self.clear_memory is not None:
            self.clear_memory.add(row)
        if not fresh:
            return None
        sides = None if self.when.sides is None else [side(self.memory) for side in self.when.sides]
        breached = self.when.judge(self.memory)
        if breached is None:
            return None
        clear: float | bool | None = not breached
        if self.clear_when is not None and self.clear_memory is not None:
            clear = self.clear_when.judge(self.clear_memory)
        value, limit = (None, None) if sides is None else sides
        return Finding(bool(breached), bool(clear) and not breached, value, limit, key=self.when.keys[0])

    def state(self) -> dict[str, Any]:
        """Plain data."""
        memories = [memory for memory in (self.memory, self.clear_memory) if memory is not None]
        return {
            "windows": [{key: list(values) for key, values in memory.windows.items()} for memory in memories],
            "counters": [list(memory.counters) for memory in memories],
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned. Windows of another expression are forgotten."""
        memories = [memory for memory in (self.memory, self.clear_memory) if memory is not None]
        for memory, windows, counters in zip(memories, state["windows"], state["counters"], strict=False):
            for key, window in memory.windows.items():
                window.extend(windows.get(key, []))
            if len(counters) == len(memory.counters):
                memory.counters = list(counters)


def _parsed(name: str, text: str) -> Expression:
    try:
        return Expression(text)
    except ExpressionError as error:
        raise ExpressionError(f"{name}: {error}") from error
