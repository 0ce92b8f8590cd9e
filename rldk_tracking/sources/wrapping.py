"""A method of one object, and of no other object of its class, with something around it, until it is put back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_ABSENT = object()
_LAYER = "_rldk_layer"


class Wrapped:
    """Replaces `owner.name` from construction to `restore`. Several may lie over each other, and go in any order.

    Args:
        owner: the object whose method is wrapped.
        name: the method.
        around: takes the original, bound to its owner, and returns the function that is called in its place.
    """

    def __init__(self, owner: Any, name: str, around: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        self._owner = owner
        self._name = name
        self._is_restored = False
        self._before = vars(owner).get(name, _ABSENT)
        self._installed = around(getattr(owner, name))
        setattr(self._installed, _LAYER, self)
        setattr(owner, name, self._installed)

    def restore(self) -> None:
        """Put the method back as it was, unless somebody has wrapped it again since: then theirs must stay whole.

        Where that was another of these, this one goes with it.
        """
        self._is_restored = True
        layer: Wrapped | None = self
        while layer is not None and layer._is_restored:
            layer = layer._lift()

    def _lift(self) -> Wrapped | None:
        """Put back what was there before, and return the layer that lies bare then."""
        if vars(self._owner).get(self._name) is not self._installed:
            return None
        if self._before is _ABSENT:
            delattr(self._owner, self._name)
        else:
            setattr(self._owner, self._name, self._before)
        below = getattr(self._before, _LAYER, None)
        # Who wraps with `functools.wraps` takes our mark along.
        return below if isinstance(below, Wrapped) and below._installed is self._before else None
