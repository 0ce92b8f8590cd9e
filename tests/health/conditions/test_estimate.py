"""Below zero beyond its error."""

from __future__ import annotations

import pytest

from rldk_tracking.health.conditions.estimate import BelowZero


@pytest.mark.parametrize(
    ("value", "error", "breached"),
    [(-0.1, 0.02, True), (-0.07, 0.02, False), (-0.015, 0.001, False), (0.5, 0.01, False)],
)
def test_beyond_four_errors_and_the_floor(value: float, error: float, breached: bool) -> None:
    condition = BelowZero(("x",), error_key="e", z=4.0, floor=0.02)
    assert condition.judge(0, {"x": value, "e": error}).breached is breached


def test_without_its_error_only_a_limit_of_its_own_judges() -> None:
    assert BelowZero(("x",), error_key="e").judge(0, {"x": -9.0}) is None
    assert BelowZero(("x",), error_key="e", floor_alone=0.1).judge(0, {"x": -0.2}).breached
    assert not BelowZero(("x",), error_key="e", floor_alone=0.1).judge(0, {"x": -0.05}).breached
