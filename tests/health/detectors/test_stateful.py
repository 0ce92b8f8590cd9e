"""State as plain data."""

from __future__ import annotations

import json
from collections import deque
from typing import ClassVar

from rldk_tracking.health.detectors import Stateful


class Inner(Stateful):
    STATE: ClassVar[tuple[str, ...]] = ("total",)

    def __init__(self) -> None:
        self.total = 0.0


class Outer(Stateful):
    STATE: ClassVar[tuple[str, ...]] = ("inner", "recent", "seen", "named", "text", "nothing")

    def __init__(self) -> None:
        self.inner = Inner()
        self.recent: deque[float] = deque(maxlen=3)
        self.seen: list[float] = []
        self.named: dict[str, float] = {}
        self.text = ""
        self.nothing: float | None = None


def test_state_comes_back_through_json() -> None:
    outer = Outer()
    outer.inner.total = 0.1 + 0.2
    outer.recent.extend([1.0, 2.0, 3.0, 4.0])
    outer.seen, outer.named, outer.text = [5.0], {"a": 6.0}, "b"
    other = Outer()
    other.load_state(json.loads(json.dumps(outer.state())))
    assert other.state() == outer.state()
    assert other.inner.total == 0.1 + 0.2
    other.recent.append(9.0)
    assert list(other.recent) == [3.0, 4.0, 9.0], "the bound survives"


def test_state_is_a_copy() -> None:
    outer = Outer()
    state = outer.state()
    outer.seen.append(1.0)
    outer.recent.append(1.0)
    outer.named["a"] = 1.0
    assert state["seen"] == [] and state["recent"] == [] and state["named"] == {}


def test_names_that_an_older_state_lacks_stay_fresh() -> None:
    outer = Outer()
    outer.load_state({"text": "b"})
    assert (outer.text, outer.seen) == ("b", [])
