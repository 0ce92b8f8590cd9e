"""Series of training itself."""

from __future__ import annotations

from rldk_tracking.keys.training import KEYS


def test_what_is_not_a_number_is_never_averaged_away() -> None:
    """One rank's NaN is the run's."""
    assert {key.reduce for key in KEYS if key.name.startswith("rldk/nan/")} <= {"max", "sum"}
    assert {key.direction for key in KEYS if key.name.startswith("rldk/nan/")} == {"lower"}
