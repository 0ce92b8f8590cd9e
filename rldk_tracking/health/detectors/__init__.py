"""Streaming statistics: constant time and memory a value, state in and out as plain data.

So a resumed run judges as if it had never stopped.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Mapping
from dataclasses import field, fields
from typing import Any


def remembered(default: Any = None) -> Any:
    """A field of a dataclass that a judgement depends on: part of the state, and no argument of the constructor.

    Args:
        default: what it begins as, or a class or function that makes it.
    """
    begin: dict[str, Any] = {"default_factory": default} if callable(default) else {"default": default}
    return field(init=False, metadata={"state": True}, **begin)


class Stateful:
    """A dataclass whose `remembered` fields are its state.

    They are plain values, lists, deques, other `Stateful`s, and mappings of these.
    """

    @classmethod
    def remembers(cls) -> tuple[str, ...]:
        """Names of what makes up the state."""
        kind: Any = cls
        return _names(kind)

    def state(self) -> dict[str, Any]:
        """Plain data: what `json.dumps` takes and gives back unchanged."""
        return {name: _plain(getattr(self, name)) for name in self.remembers()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned. Names that are missing keep their fresh value."""
        for name in self.remembers():
            if name not in state:
                continue
            current, value = getattr(self, name), state[name]
            if isinstance(current, Stateful):
                current.load_state(value)
            elif isinstance(current, dict) and any(isinstance(each, Stateful) for each in current.values()):
                for key in current.keys() & value.keys():
                    current[key].load_state(value[key])
            elif isinstance(current, deque):
                setattr(self, name, deque(value, maxlen=current.maxlen))
            elif isinstance(current, (dict, list)):
                setattr(self, name, type(current)(value))
            else:
                setattr(self, name, value)


@functools.cache
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(each.name for each in fields(kind) if "state" in each.metadata)


def _plain(value: Any) -> Any:
    if isinstance(value, Stateful):
        return value.state()
    if isinstance(value, (deque, list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value
