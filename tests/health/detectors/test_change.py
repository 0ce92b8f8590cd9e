"""Change since the first values, in units of the noise."""

from __future__ import annotations

import random

import pytest

from rldk_tracking.health.detectors.change import Change


def fed(values: list[float], **options: float) -> Change:
    change = Change(**options)
    for value in values:
        change.add(value)
    return change


def test_nothing_is_said_of_the_first_values() -> None:
    assert fed([1.0] * 8).sigmas is None
    assert fed([1.0] * 9).sigmas == 0.0


def test_a_step_is_measured_in_its_noise() -> None:
    draw = random.Random(1)
    change = fed([draw.gauss(0.0, 0.1) for _ in range(50)] + [draw.gauss(1.0, 0.1) for _ in range(60)])
    assert change.change == pytest.approx(1.0, abs=0.15)
    assert 5 < change.sigmas < 15


def test_noise_estimates_a_standard_deviation() -> None:
    draw = random.Random(2)
    assert fed([draw.gauss(0, 3) for _ in range(2000)]).noise == pytest.approx(3.0, rel=0.2)


def test_a_change_without_noise_is_larger_than_any_limit() -> None:
    assert fed([1.0] * 8 + [1.0]).sigmas == 0.0
    change = fed([1.0] * 100, early=8)
    change.noise, change.mean = 0.0, 2.0
    assert change.sigmas == 1e9


@pytest.mark.parametrize("correlation", [0.0, 0.6, 0.85])
def test_wander_is_the_standard_deviation_of_correlated_values_beside_a_trend(correlation: float) -> None:
    draw, value, values = random.Random(3), 0.0, []
    for step in range(2000):
        value = correlation * value + (1 - correlation**2) ** 0.5 * draw.gauss(0, 1)
        values.append(3.0 * value + 0.1 * step)
    assert fed(values, memory=2000).wander == pytest.approx(3.0, rel=0.2)
