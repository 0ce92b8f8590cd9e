"""Staleness, what is thrown away, and waiting, against plain loops."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rldk_tracking.metrics.asynchronous import Flow, compute

NUMBERS = st.lists(st.integers(0, 50), max_size=20)


@given(
    ages=NUMBERS,
    lengths=NUMBERS,
    dropped=st.integers(0, 9),
    waited=st.floats(0, 9),
    seconds=st.none() | st.floats(0.1, 9),
    steps=st.integers(1, 4),
)
def test_against_loops(
    ages: list[int], lengths: list[int], dropped: int, waited: float, seconds: float | None, steps: int
) -> None:
    expected = {"wait_seconds": waited / steps, "dropped": dropped}
    if ages:
        total, oldest = 0, 0
        for age in ages:
            total += age
            oldest = age if age > oldest else oldest
        expected |= {"staleness/mean": total / len(ages), "staleness/max": oldest}
    if lengths:
        expected["queue_length"] = sum(lengths) / len(lengths)
    if seconds is not None:
        expected["wait_fraction"] = waited / seconds if waited < seconds else 1.0
    taken = [True] * dropped + [False] * len(lengths)
    if taken:
        expected["stale_fraction"] = taken.count(True) / len(taken)
    found = compute(Flow([*map(float, ages)], dropped, [*map(float, lengths)], waited), seconds, steps)
    assert found == {f"rldk/async/{name}": value for name, value in expected.items()}
