"""Memory readings of this very process."""

from __future__ import annotations

import sys
import time
import types

import numpy as np
import pytest
import torch

from rldk_tracking.metrics.resources import GIB, ResistantSlope, ResourceMeter


def test_resident_memory_follows_an_allocation() -> None:
    meter = ResourceMeter()
    before = meter.read(0)["rldk/resources/host_rss_gib"]
    ballast = np.ones(200 << 20, dtype=np.uint8)
    after = meter.read(1)["rldk/resources/host_rss_gib"]
    assert (after - before) * GIB == pytest.approx(ballast.nbytes, rel=0.1)


def test_without_a_gpu_its_keys_are_absent() -> None:
    found = ResourceMeter(device="cpu").read(0)
    assert set(found) == {"rldk/resources/host_rss_gib", "rldk/resources/host_memory_fraction"}
    assert 0 < found["rldk/resources/host_memory_fraction"] < 1


def test_memory_of_a_gpu_that_others_use_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 80 GiB, torch reserved 50 and uses 40, others have 20, 10 are free: 20 can still be had."""
    stats = {"allocated_bytes.all.current": 40, "allocated_bytes.all.peak": 45, "reserved_bytes.all.current": 50}

    class Properties:
        uuid = "0815"

    class NVMLError(Exception):
        pass

    nvml = types.SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetUtilizationRates=lambda handle: types.SimpleNamespace(gpu=75 if handle == "GPU-0815" else 0),
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: {k: v * int(GIB) for k, v in stats.items()})
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * int(GIB), 80 * int(GIB)))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties())
    meter = ResourceMeter(device="cuda:0")
    found = meter.read(0)
    assert found["rldk/resources/gpu_memory_gib"] == pytest.approx(40)
    assert "rldk/resources/gpu_memory_fraction" not in found, "nobody asked the driver yet"
    meter.ask_driver()
    found = meter.read(1)
    assert found["rldk/resources/gpu_memory_fraction"] == pytest.approx(60 / 80)
    assert found["rldk/resources/gpu_memory_peak_gib"] == pytest.approx(45)
    assert found["rldk/resources/gpu_utilisation"] == pytest.approx(0.75)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: pytest.fail("asked twice within a second"))
    meter.ask_driver()
    assert meter.read(2)["rldk/resources/gpu_memory_fraction"] == pytest.approx(60 / 80)


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
