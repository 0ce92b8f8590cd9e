"""Slow for long is a slowdown; slow for a while is somebody else's job."""

from __future__ import annotations

import random

import pytest

from rldk_tracking.health.conditions.slowdown import Slowdown

KEY, SECONDS = "rldk/throughput/tokens_per_second", "rldk/throughput/step_seconds"


def breaches(seconds: float | None, slow: range, steps: int = 400, every: int = 1, **options: object) -> list[int]:
    """Steps at which a run is told to be slow; in `slow` it makes a fifth of its usual 3,000 tokens a second."""
    condition, draw, found = Slowdown((KEY,), share=2.0, **options), random.Random(0), []
    for step in range(0, steps, every):
        row = {KEY: (600.0 if step in slow else 3000.0) * draw.lognormvariate(0, 0.2)}
        if seconds is not None:
            row[SECONDS] = seconds * (5.0 if step in slow else 1.0)
        finding = condition.judge(step, row)
        assert finding is not None
        if finding.breached:
            found.append(step)
    return found


def test_ten_minutes_are_told() -> None:
    found = breaches(10.0, range(200, 400))
    assert 200 + 15 <= found[0] <= 200 + 25  # 50 seconds a step
    assert found[-1] == 399


def test_a_short_job_beside_short_steps_is_not() -> None:
    assert breaches(0.3, range(200, 400)) == []  # 200 rows, five minutes
    assert breaches(0.3, range(200, 260)) == []


def test_slow_after_a_few_seconds_is_not() -> None:
    assert breaches(1.0, range(60, 400)) == []  # a minute at the usual, then half an hour: which of them is normal?


def test_steps_between_rows_count() -> None:
    assert breaches(1.0, range(1000, 2000), steps=2000) != []
    found = breaches(1.0, range(1000, 2000), steps=2000, every=10)
    assert 1000 + 150 <= found[0] <= 1000 + 220


def test_rows_alone_where_the_time_is_unknown() -> None:
    found = breaches(None, range(200, 400))
    assert 214 <= found[0] <= 224


@pytest.mark.parametrize(("seconds", "begin"), [(10.0, 200), (0.3, 2500)])
def test_a_new_level_is_accepted_only_after_it_was_told(seconds: float, begin: int) -> None:
    found = breaches(seconds, range(begin, begin + 2000), steps=begin + 2000, accept_after=200)
    assert found
    assert len(found) <= 210
