"""Speeds with a clock that the test sets."""

from __future__ import annotations

import pytest

from rldk_tracking.metrics.throughput import ThroughputMeter


def test_speeds() -> None:
    now = [100.0]
    meter = ThroughputMeter(clock=lambda: now[0])
    assert meter.read(4) == {}
    now[0] = 110.0
    found = meter.read(9, tokens=5000, samples=40, rollout_seconds=7.5)
    assert found == {
        "rldk/throughput/step_seconds": pytest.approx(2.0),
        "rldk/throughput/tokens_per_second": pytest.approx(500.0),
        "rldk/throughput/samples_per_second": pytest.approx(4.0),
        "rldk/throughput/rollout_fraction": pytest.approx(0.75),
    }
    now[0] = 111.0
    assert meter.read(10) == {"rldk/throughput/step_seconds": pytest.approx(1.0)}


def test_a_step_that_does_not_advance_starts_anew() -> None:
    now = [0.0]
    meter = ThroughputMeter(clock=lambda: now[0])
    meter.read(5)
    now[0] = 3.0
    assert meter.read(5) == {}
    now[0] = 4.0
    assert meter.read(2) == {}
    now[0] = 6.0
    assert meter.read(3) == {"rldk/throughput/step_seconds": pytest.approx(2.0)}
