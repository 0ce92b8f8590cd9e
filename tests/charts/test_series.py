"""Memory stays bounded, and what is kept spans the run."""

from __future__ import annotations

from itertools import pairwise

import pytest

from rldk_tracking.charts.series import Thinned


def test_a_short_run_is_kept_whole() -> None:
    past = Thinned(most=10)
    for step in range(1, 9):
        past.add({"a": step * 2.0}, step)
    assert past.series == {"a": [(step, step * 2.0) for step in range(1, 9)]}
    assert past.step == 8
    assert past.row == {"a": 16.0}


@pytest.mark.parametrize("count", [10, 11, 99, 1000, 4321])
def test_a_long_run_is_thinned_evenly_and_keeps_its_ends(count: int) -> None:
    past = Thinned(most=10)
    for step in range(count):
        past.add({"a": float(step)}, step)
    points = past.series["a"]
    assert len(points) <= 11
    assert points[0] == (0, 0.0)
    assert points[-1] == (count - 1, count - 1.0)
    steps = [step for step, _ in points]
    gaps = {late - early for early, late in pairwise(steps[:-1])}
    assert len(gaps) <= 1


def test_series_that_come_seldom_are_thinned_by_themselves() -> None:
    past = Thinned(most=10)
    for step in range(1000):
        past.add({"a": 1.0} | ({"b": float(step)} if step % 250 == 0 else {}), step)
    assert past.series["b"] == [(0, 0.0), (250, 250.0), (500, 500.0), (750, 750.0)]


def test_nothing_has_no_series() -> None:
    assert Thinned().series == {}
    assert Thinned().step is None
    with pytest.raises(ValueError, match="at least 2"):
        Thinned(1)
