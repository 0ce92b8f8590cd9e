"""Levels with hysteresis."""

from __future__ import annotations

import pytest

from rldk_tracking.health.conditions.level import Level, sign_of


def test_between_the_two_levels_nothing_changes(findings) -> None:
    found = findings(Level(("x",), threshold=1.0, clear=0.5, critical=3.0), [0.4, 1.0, 1.1, 3.1, 0.7, 0.5])
    assert [(f.breached, f.clear, f.critical) for f in found] == [
        (False, True, False),
        (False, False, False),
        (True, False, False),
        (True, False, True),
        (False, False, False),
        (False, True, False),
    ]


def test_below_is_the_mirror_of_above(findings) -> None:
    values = [0.4, 1.0, 1.1, 3.1, 0.7, 0.5]
    above = findings(Level(("x",), threshold=1.0, clear=0.5, critical=3.0), values)
    mirrored = Level(("x",), direction="below", threshold=-1.0, clear=-0.5, critical=-3.0)
    below = findings(mirrored, [-value for value in values])
    assert [(f.breached, f.clear, f.critical) for f in above] == [(f.breached, f.clear, f.critical) for f in below]


def test_one_wild_value_does_not_move_the_mean_over_the_limit(findings) -> None:
    found = findings(Level(("x",), threshold=0.4, span=8.0), [0.1] * 10 + [1.0] + [0.1] * 10 + [1.0] * 10)
    breached = [f.breached for f in found]
    assert breached.index(True) in range(22, 25)


def test_a_value_on_its_way_back_is_excused(findings) -> None:
    returning = [-(0.9**i) for i in range(45)]
    level = Level(("x",), direction="below", threshold=0.0, span=5.0, unless_improving=0.2)
    assert not any(f.breached for f in findings(level, returning)[8:])
    level = Level(("x",), direction="below", threshold=0.0, span=5.0, unless_improving=0.2)
    assert all(f.breached for f in findings(level, [-0.5] * 30))


def test_another_value_may_be_asked_as_well() -> None:
    level = Level(("x",), threshold=1.0, only_below={"y": 0.5})
    assert level.judge(0, {"x": 2.0}).breached
    assert level.judge(1, {"x": 2.0, "y": 0.4}).breached
    excused = level.judge(2, {"x": 2.0, "y": 0.6})
    assert (excused.breached, excused.clear) == (False, True)


def test_direction_is_checked() -> None:
    with pytest.raises(ValueError, match="sideways"):
        sign_of("sideways")
