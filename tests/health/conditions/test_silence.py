"""A silence, held to the limit that comes with it; the limit, from a phase's own durations."""

from __future__ import annotations

import pytest

from rldk_tracking.health.conditions.silence import Silence

KEY, LIMIT = "rldk/run/silent_seconds", "rldk/run/limit_seconds"


def silence(**parameters: float) -> Silence:
    return Silence((KEY,), **{"threshold": 120.0, **parameters})


@pytest.mark.parametrize(
    ("silent", "limit", "breached", "clear", "critical"),
    [
        (0.0, 120.0, False, True, False),
        (120.0, 120.0, False, True, False),
        (120.5, 120.0, True, False, False),
        (240.0, 120.0, True, False, False),
        (240.5, 120.0, True, False, True),
        (1e9, None, False, True, False),
    ],
)
def test_a_silence_is_held_to_the_limit_of_its_row(silent, limit, breached, clear, critical) -> None:
    finding = silence().judge(3, {KEY: silent} if limit is None else {KEY: silent, LIMIT: limit})
    assert (finding.breached, finding.clear, finding.critical) == (breached, clear, critical)
    assert (finding.value, finding.threshold, finding.key) == (silent, limit, KEY)


def test_a_row_without_a_silence_says_nothing() -> None:
    assert silence().judge(3, {LIMIT: 1.0, "rldk/run/gone": 0.0}) is None


@pytest.mark.parametrize(
    ("p99", "longest", "limit"),
    [
        (None, None, 1800.0),  # no history
        (0.1, 0.2, 120.0),
        (30.0, 40.0, 300.0),
        (1.0, 900.0, 1800.0),  # what happens once in a thousand steps
    ],
)
def test_the_limit_is_the_largest_of_three(p99, longest, limit: float) -> None:
    assert silence().limit(p99, longest) == limit


def test_its_numbers_can_be_changed() -> None:
    mine = silence(threshold=5.0, times=3.0, first=60.0, critical=1.0)
    assert (mine.limit(None, None), mine.limit(1.0, 1.0), mine.limit(4.0, 4.0)) == (60.0, 5.0, 12.0)
    assert mine.judge(0, {KEY: 6.0, LIMIT: 5.0}).critical
    assert silence(first=1.0).limit(None, None) == 120.0  # the threshold is the least


@pytest.mark.parametrize("parameters", [{"threshold": 0.0}, {"times": -1.0}, {"first": 0.0}, {"critical": 0.5}])
def test_numbers_that_cannot_be_are_refused(parameters) -> None:
    with pytest.raises(ValueError, match="above 0, and critical at least 1"):
        silence(**parameters)
