"""Speeds from one reading to the next."""

from __future__ import annotations

import pytest

from rldk_tracking.metrics.throughput import ThroughputMeter


def test_speeds() -> None:
    meter = ThroughputMeter()
    assert meter.read(4, 100.0) == {}
    found = meter.read(9, 110.0, tokens=5000, samples=40, rollout_seconds=7.5)
    assert found == {
        "rldk/throughput/step_seconds": pytest.approx(2.0),
        "rldk/throughput/tokens_per_second": pytest.approx(500.0),
        "rldk/throughput/samples_per_second": pytest.approx(4.0),
        "rldk/throughput/rollout_fraction": pytest.approx(0.75),
    }
    assert meter.read(10, 111.0) == {"rldk/throughput/step_seconds": pytest.approx(1.0)}


def test_a_step_that_does_not_advance_starts_anew() -> None:
    meter = ThroughputMeter()
    meter.read(5, 0.0)
    assert meter.read(5, 3.0) == {}
    assert meter.read(2, 4.0) == {}
    assert meter.read(3, 6.0) == {"rldk/throughput/step_seconds": pytest.approx(2.0)}
