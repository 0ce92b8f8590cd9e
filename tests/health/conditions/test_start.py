"""Values against the start of the run, and the first value."""

from __future__ import annotations

import pytest

from rldk_tracking.health.conditions.start import First, FromStart


def breaches(findings, condition, values) -> list[int]:
    return [i for i, f in enumerate(findings(condition, values)) if f is not None and f.breached]


def test_a_rise_and_a_fall_by_a_share_of_the_start(findings) -> None:
    assert breaches(findings, FromStart(("x",), direction="up", share=2.0), [10.0] * 8 + [29, 31, 10]) == [9]
    assert breaches(findings, FromStart(("x",), direction="down", share=0.9), [10.0] * 8 + [2, 0.9, 10]) == [9]


def test_a_start_below_zero_has_a_size_too(findings) -> None:
    fall = FromStart(("x",), direction="down", share=1.0)
    assert breaches(findings, fall, [-200.0] * 8 + [-300, -399, -401]) == [10]


def test_absolute_limits(findings) -> None:
    beyond = FromStart(("x",), direction="up", share=2.0, beyond=5.0)
    assert breaches(findings, beyond, [1.0] * 8 + [4.0, 5.5]) == [9]
    change = FromStart(("x",), direction="up", share=0.1, change=10.0)
    assert breaches(findings, change, [1.0] * 8 + [10.0, 12.0]) == [9]


def test_a_capped_value_is_held_to_another_share() -> None:
    condition = FromStart(("x",), direction="up", share=2.0, capped_key="cut", capped_share=0.5)
    for step in range(8):
        condition.judge(step, {"x": 100.0, "cut": 0.0})
    assert not condition.judge(8, {"x": 180.0, "cut": 0.0}).breached
    assert condition.judge(9, {"x": 180.0, "cut": 0.9}).breached


def test_zeros_can_be_left_out(findings) -> None:
    vanishing = FromStart(("x",), direction="down", share=0.999, skip_zero=True)
    assert breaches(findings, vanishing, [1.0] * 8 + [0.0, 0.0, 1e-4]) == [10]


@pytest.mark.parametrize(("fall", "breached"), [(20, False), (1, True)])
def test_what_learning_explains_is_no_breach_if_it_comes_gradually(fall: int, breached: bool) -> None:
    condition = FromStart(("x",), direction="down", share=0.9, unless_learned=True)
    found = []
    for step in range(90):
        done = step / 90
        value = max(0.02, 1.0 - (step - 30) / fall) if step > 30 else 1.0
        value = 1.0 if step <= 60 and fall == 1 else (0.01 + 0.99 * 0.93**step if fall > 1 else 0.01)
        found.append(condition.judge(step, {"x": value, "rldk/reward/mean": done, "rldk/reward/std": 0.3}))
    assert any(f.breached for f in found) is breached


def test_without_a_climb_nothing_excuses_the_loss() -> None:
    condition = FromStart(("x",), direction="down", share=0.9, unless_learned=True)
    rows = [{"x": 0.01 + 0.93**step, "rldk/reward/mean": 0.5, "rldk/reward/std": 0.3} for step in range(90)]
    assert any(condition.judge(step, row).breached for step, row in enumerate(rows))


def test_the_first_value_is_judged_once() -> None:
    first = First(("x",), exact=0.05, exact_key="error", at_once=0.2, above=1.0)
    assert first.judge(1, {"x": 0.3}).breached
    later = first.judge(2, {"x": 9.0})
    assert not later.breached and not later.clear
    assert first.judge(3, {"x": 0.1}).clear
