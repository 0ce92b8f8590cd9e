"""Pictures come early, and their number does not grow with the run."""

from __future__ import annotations

from itertools import pairwise

from rldk_tracking.charts.cadence import Cadence


def versions(steps: int) -> list[int]:
    cadence = Cadence()
    made = []
    for step in range(1, steps + 1):
        cadence.count()
        if cadence.due:
            cadence.done()
            made.append(step)
    return made


def test_a_short_run_has_them_early() -> None:
    assert versions(60) == [5, 30, 55]


def test_news_need_not_wait_so_long_but_they_wait() -> None:
    cadence = Cadence()
    for _ in range(1000):
        cadence.count()
    cadence.done()
    possible = []
    for row in range(1001, 1110):
        cadence.count()
        assert not cadence.due or row >= 1100
        if cadence.possible:
            possible.append(row)
    assert possible[0] == 1025


def test_a_long_run_makes_them_ever_less_often() -> None:
    long = versions(100_000)
    assert len(long) < 90
    assert all(later - earlier == max(25, earlier // 10) for earlier, later in pairwise(long))
