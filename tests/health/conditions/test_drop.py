"""Lasting falls: collapses of several shapes, and noise that is none."""

from __future__ import annotations

import random

import pytest

from rldk_tracking.health.conditions.drop import Drop


def breaches(findings, values, **options) -> list[int]:
    return [i for i, f in enumerate(findings(Drop(("x",), **options), values)) if f.breached]


def noisy(level: float, noise: float, n: int, draw: random.Random, correlation: float = 0.6) -> list[float]:
    value, out = 0.0, []
    for _ in range(n):
        value = correlation * value + (1 - correlation**2) ** 0.5 * draw.gauss(0, noise)
        out.append(level + value)
    return out


@pytest.mark.parametrize("seed", range(10))
def test_a_collapse_is_seen_within_a_few_rows(findings, seed: int) -> None:
    draw = random.Random(seed)
    found = breaches(findings, noisy(0.8, 0.08, 60, draw) + noisy(0.05, 0.02, 30, draw))
    assert found and 60 <= found[0] <= 66


def test_a_collapse_in_the_first_rows_is_seen(findings) -> None:
    assert breaches(findings, [0.95, 0.95, 0.9, 0.6, 0.3, *[0.0] * 8])


def test_a_slow_fall_is_held_to_the_best_level(findings) -> None:
    draw = random.Random(3)
    falling = [0.9 - 0.004 * i + draw.gauss(0, 0.03) for i in range(200)]
    assert breaches(findings, [0.9 + draw.gauss(0, 0.03) for _ in range(40)] + falling)


@pytest.mark.parametrize("correlation", [0.0, 0.6])
@pytest.mark.parametrize("level", [-2.0, 0.0, 0.4, 5.0])
def test_a_plateau_of_noise_does_not_fall(findings, level: float, correlation: float) -> None:
    alarmed = 0
    for seed in range(40):
        values = noisy(level, 0.3, 300, random.Random(seed), correlation)
        alarmed += bool(breaches(findings, values))
    assert alarmed <= 2, f"{alarmed} of 40 healthy runs"


def test_rare_far_values_are_no_fall(findings) -> None:
    draw = random.Random(5)
    assert not breaches(findings, [draw.choice([-2.6] * 6 + [-6.0, 0.5]) for _ in range(400)])


def test_the_fall_must_be_large_beside_the_value_itself(findings) -> None:
    assert not breaches(findings, [-0.1] * 40 + [-0.106] * 20)


def test_an_origin_can_be_given(findings) -> None:
    values = [10.0] * 40 + [7.0] * 20
    assert not breaches(findings, values)
    assert breaches(findings, values, origin=5.0)


def test_critical_share(findings) -> None:
    found = findings(Drop(("x",), critical_share=0.8), [1.0] * 40 + [0.4] * 20 + [0.0] * 20)
    assert not any(f.critical for f in found[:60]) and found[-1].critical


def test_it_clears_when_the_value_is_back(findings) -> None:
    found = findings(Drop(("x",)), [1.0] * 40 + [0.0] * 10 + [1.0] * 20)
    assert found[49].breached and not found[49].clear and found[-1].clear
