"""Streaming statistics: constant time and memory a value, state in and out as plain data.

So a resumed run judges as if it had never stopped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, ClassVar


class Stateful:
    """Names in `STATE` the attributes that a judgement depends on: plain values, lists, deques, other `Stateful`s."""

    STATE: ClassVar[tuple[str, ...]] = ()

    def state(self) -> dict[str, Any]:
        """Plain data: what `json.dumps` takes and gives back unchanged."""
        return {name: _plain(getattr(self, name)) for name in self.STATE}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned. Names that are missing keep their fresh value."""
        for name in self.STATE:
            if name not in state:
                continue
            current, value = getattr(self, name), state[name]
            if isinstance(current, Stateful):
                current.load_state(value)
            elif isinstance(current, deque):
                setattr(self, name, deque(value, maxlen=current.maxlen))
            elif isinstance(current, dict):
                setattr(self, name, dict(value))
            elif isinstance(current, list):
                setattr(self, name, list(value))
            else:
                setattr(self, name, value)


def _plain(value: Any) -> Any:
    if isinstance(value, Stateful):
        return value.state()
    if isinstance(value, (deque, list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value
