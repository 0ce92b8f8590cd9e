"""A wrapped method is put back exactly as it was."""

from __future__ import annotations

import functools
import itertools
from typing import Any

from rldk_tracking.sources.wrapping import Wrapped


class Thing:
    def double(self, number: int) -> int:
        return 2 * number


def counting(calls: list[int]) -> Any:
    def around(original: Any) -> Any:
        def method(number: int) -> int:
            calls.append(number)
            return int(original(number))

        return method

    return around


def test_only_this_object_is_wrapped_and_restored() -> None:
    calls: list[int] = []
    mine, other = Thing(), Thing()
    wrapped = Wrapped(mine, "double", counting(calls))
    assert (mine.double(2), other.double(3)) == (4, 6)
    assert calls == [2]
    wrapped.restore()
    assert vars(mine) == {} and mine.double(5) == 10 and calls == [2]
    wrapped.restore()


def test_an_earlier_wrapper_comes_back() -> None:
    first: list[int] = []
    mine = Thing()
    Wrapped(mine, "double", counting(first))
    earlier = vars(mine)["double"]
    Wrapped(mine, "double", counting([])).restore()
    assert vars(mine)["double"] is earlier


def test_a_later_wrapper_stays_whole() -> None:
    later: list[int] = []
    mine = Thing()
    ours = Wrapped(mine, "double", counting([]))
    Wrapped(mine, "double", counting(later))
    ours.restore()
    assert mine.double(4) == 8 and later == [4]


def test_several_may_go_in_any_order() -> None:
    for order in itertools.permutations(range(3)):
        mine, calls = Thing(), [[], [], []]  # type: ignore[var-annotated]
        layers = [Wrapped(mine, "double", counting(seen)) for seen in calls]
        for number in order:
            assert mine.double(1) == 2
            layers[number].restore()
        assert vars(mine) == {} and mine.double(1) == 2
        assert all(calls)


def test_what_lies_below_somebody_elses_wrapper_stays() -> None:
    mine = Thing()
    below = Wrapped(mine, "double", counting([]))
    theirs = functools.wraps(mine.double)(lambda number: 0)
    mine.double = theirs  # type: ignore[method-assign]
    above = Wrapped(mine, "double", counting([]))
    below.restore()
    above.restore()
    assert vars(mine)["double"] is theirs and mine.double(3) == 0
