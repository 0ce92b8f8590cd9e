"""Steady growth."""

from __future__ import annotations

import random

from rldk_tracking.health.conditions.growth import Growth


def breaches(findings, values, **options) -> list[int]:
    condition = Growth(("x",), block=5, blocks=4, share=0.1, **options)
    return [i for i, f in enumerate(findings(condition, values)) if f.breached]


def test_a_leak_is_seen_once_it_has_come_far(findings) -> None:
    assert breaches(findings, [1.0 + 0.01 * t for t in range(60)])[0] in range(24, 35)


def test_a_cache_that_fills_and_empties_is_none(findings) -> None:
    assert breaches(findings, [1.0 + 0.2 * (t % 4) for t in range(200)]) == []


def test_a_step_up_is_none(findings) -> None:
    assert breaches(findings, [1.0] * 50 + [2.0] * 50) == []


def test_slow_growth_is_none(findings) -> None:
    assert breaches(findings, [1.0 + 0.0005 * t for t in range(200)]) == []
    assert breaches(findings, [0.001 + 0.0001 * t for t in range(200)], floor=0.1) == []


def test_noise_is_none(findings) -> None:
    draw = random.Random(0)
    assert breaches(findings, [1.0 + draw.gauss(0, 0.2) for _ in range(1000)]) == []


def test_it_ends_when_the_growth_does(findings) -> None:
    found = findings(Growth(("x",), block=5, blocks=4), [1.0 + 0.05 * min(t, 50) for t in range(80)])
    assert found[49].breached and found[-1].clear
