"""Memory readings of this very process."""

from __future__ import annotations

import time

import numpy as np
import pytest

from rldk_tracking.metrics.resources import GIB, ResistantSlope, ResourceMeter


def test_resident_memory_follows_an_allocation() -> None:
    meter = ResourceMeter()
    before = meter.read(0)["rldk/resources/host_rss_gib"]
    ballast = np.ones(200 << 20, dtype=np.uint8)
    after = meter.read(1)["rldk/resources/host_rss_gib"]
    assert (after - before) * GIB == pytest.approx(ballast.nbytes, rel=0.1)


def test_without_a_gpu_its_keys_are_absent() -> None:
    found = ResourceMeter(device="cpu").read(0)
    assert set(found) == {"rldk/resources/host_rss_gib"}


def test_slope_of_a_leak_beside_noise_and_one_jump() -> None:
    slope = ResistantSlope()
    noise = np.random.default_rng(0).normal(0, 0.01, 99)
    for step in range(99):
        slope.add(step, 3.0 + 0.02 * step + noise[step] + (5.0 if step == 50 else 0.0))
    assert slope.value() == pytest.approx(0.02, rel=0.05)


def test_slope_needs_points_and_survives_a_restart() -> None:
    slope = ResistantSlope(least=21)
    for step in range(20):
        slope.add(step, step)
    assert slope.value() is None
    slope.add(20, 20)
    assert slope.value() == pytest.approx(1.0)
    slope.add(3, 0.0)
    assert slope.value() is None


def test_slope_without_progress_is_unknown() -> None:
    slope = ResistantSlope()
    for _ in range(40):
        slope.add(7, 1.0)
    assert slope.value() is None


def test_memory_does_not_grow_and_reading_is_quick() -> None:
    meter = ResourceMeter()
    for step in range(100):
        meter.read(step)
    start = time.perf_counter()
    for step in range(100, 600):
        meter.read(step)
    assert (time.perf_counter() - start) / 500 < 500e-6  # ten times the goal: the machine may be busy
