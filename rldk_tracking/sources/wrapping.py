"""A method of one object, and of no other object of its class, with something around it, until it is put back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_ABSENT = object()


class Wrapped:
    """Replaces `owner.name` from construction to `restore`.

    Args:
        owner: the object whose method is wrapped.
        name: the method.
        around: takes the original, bound to its owner, and returns what is called in its place.
    """

    def __init__(self, owner: Any, name: str, around: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        self._owner = owner
        self._name = name
        self._before = vars(owner).get(name, _ABSENT)
        self._installed = around(getattr(owner, name))
        setattr(owner, name, self._installed)

    def restore(self) -> None:
        """Put the method back as it was, unless somebody has wrapped it again since: then theirs must stay whole."""
        if vars(self._owner).get(self._name) is not self._installed:
            return
        if self._before is _ABSENT:
            delattr(self._owner, self._name)
        else:
            setattr(self._owner, self._name, self._before)
