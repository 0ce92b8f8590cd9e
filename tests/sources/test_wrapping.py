"""A wrapped method is put back exactly as it was."""

from __future__ import annotations

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
