"""State as plain data."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass

from rldk_tracking.health.detectors import Stateful, remembered


@dataclass
class Inner(Stateful):
    size: int = 3
    total: float = remembered(0.0)


@dataclass
class Outer(Stateful):
    width: int = 5
    inner: Inner = remembered(Inner)
    inners: dict[str, Inner] = remembered(lambda: {"a": Inner(), "b": Inner()})
    recent: deque[float] = remembered(lambda: deque(maxlen=3))
    seen: list[float] = remembered(list)
    named: dict[str, float] = remembered(dict)
    text: str = remembered("")
    nothing: float | None = remembered()


def test_state_comes_back_through_json() -> None:
    outer = Outer()
    outer.inner.total = 0.1 + 0.2
    outer.inners["b"].total = 7.0
    outer.recent.extend([1.0, 2.0, 3.0, 4.0])
    outer.seen, outer.named, outer.text = [5.0], {"a": 6.0}, "b"
    other = Outer()
    other.load_state(json.loads(json.dumps(outer.state())))
    assert other.state() == outer.state()
    assert other.inner.total == 0.1 + 0.2
    assert [each.total for each in other.inners.values()] == [0.0, 7.0]
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


def test_what_the_constructor_takes_is_no_state() -> None:
    assert set(Outer(width=9).state()) == {"inner", "inners", "recent", "seen", "named", "text", "nothing"}
    assert set(Inner(size=4).state()) == {"total"}
