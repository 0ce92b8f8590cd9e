"""Lasting shifts: how often healthy, autocorrelated noise alarms, and how late a shift is seen."""

from __future__ import annotations

import random
import statistics

import pytest

from rldk_tracking.health.conditions.shift import Shift


def autoregression(n: int, correlation: float, seed: int) -> list[float]:
    draw = random.Random(seed)
    value, out = draw.gauss(0, 1), []
    for _ in range(n):
        out.append(value)
        value = correlation * value + (1 - correlation**2) ** 0.5 * draw.gauss(0, 1)
    return out


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.8])
def test_at_most_one_healthy_run_in_twenty_alarms(findings, correlation: float) -> None:
    alarmed = 0
    for seed in range(40):
        values = [10 + value for value in autoregression(500, correlation, seed)]
        alarmed += any(f.breached for f in findings(Shift(("x",)), values))
    assert alarmed <= 2


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_shift_of_three_deviations_is_seen(findings, direction: str) -> None:
    delays = []
    for seed in range(20):
        values = autoregression(160, 0.0, seed)
        shift = 3.0 if direction == "up" else -3.0
        values = [10 + value + (shift if i >= 100 else 0) for i, value in enumerate(values)]
        found = findings(Shift(("x",), direction=direction), values)
        seen = [i for i, f in enumerate(found) if f.breached]
        if seen and seen[0] >= 100:
            delays.append(seen[0] - 100)
    assert len(delays) >= 14
    assert statistics.median(delays) <= 8


def test_the_shift_must_be_large_enough_to_matter(findings) -> None:
    values = [10 + 0.01 * value for value in autoregression(100, 0.0, 0)] + [10.5] * 50
    assert any(f.breached for f in findings(Shift(("x",)), values))
    assert not any(f.breached for f in findings(Shift(("x",), share=0.2), values))


def test_one_wild_value_is_no_shift(findings) -> None:
    values = [10 + value for value in autoregression(100, 0.0, 1)]
    values[70] = 1e6
    assert not any(f.breached for f in findings(Shift(("x",)), values))


def test_rates_are_judged_in_proportion(findings) -> None:
    values = [1000 * 2 ** (0.1 * value) for value in autoregression(100, 0.3, 2)] + [400.0] * 30 + [0.0]
    found = findings(Shift(("x",), direction="down", share=1.0, log=True), values)
    assert found[-1] is None
    assert found[-2].breached and found[-2].threshold == pytest.approx(found[-2].evidence["normal"] / 2)


def test_another_series_can_be_asked_to_agree() -> None:
    values = [10 + value for value in autoregression(100, 0.0, 3)] + [16.0] * 40
    for other, expected in ((5.0, False), (9.0, True)):
        condition = Shift(("x",), share=0.2, agree="y")
        found = [condition.judge(i, {"x": v, "y": 5.0 if i < 100 else other}) for i, v in enumerate(values)]
        assert any(f.breached for f in found) is expected


def test_a_new_level_can_be_accepted(findings) -> None:
    values = [10 + value for value in autoregression(100, 0.0, 4)]
    values += [20 + value for value in autoregression(150, 0.0, 5)]
    found = findings(Shift(("x",), accept_after=50), values)
    assert any(f.breached for f in found[100:160]) and not any(f.breached for f in found[200:])
