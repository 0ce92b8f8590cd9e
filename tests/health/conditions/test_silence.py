"""A silence, held to the limit that comes with it."""

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


def test_how_far_the_limit_may_pass_can_be_changed() -> None:
    assert silence(critical=1.0).judge(0, {KEY: 6.0, LIMIT: 5.0}).critical


@pytest.mark.parametrize("parameters", [{"threshold": 0.0}, {"times": -1.0}, {"first": 0.0}, {"critical": 0.5}])
def test_numbers_that_cannot_be_are_refused(parameters) -> None:
    with pytest.raises(ValueError, match="above 0, and critical at least 1"):
        silence(**parameters)
