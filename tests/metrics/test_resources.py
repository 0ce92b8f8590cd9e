"""Memory of this very process and of control groups, and speeds at times that the test sets."""

from __future__ import annotations

import sys
import time
import types
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from rldk_tracking.metrics import resources
from rldk_tracking.metrics.resources import (
    GIB,
    Group,
    HostMemory,
    ResourceMeter,
    ThroughputMeter,
    groups,
)


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


def test_memory_does_not_grow_and_reading_is_quick() -> None:
    meter = ResourceMeter()
    for step in range(100):
        meter.read(step)
    start = time.perf_counter()
    for step in range(100, 600):
        meter.read(step)
    assert (time.perf_counter() - start) / 500 < 500e-6  # ten times the goal: the machine may be busy


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_dot_", ".")).write_text(str(text))


def own(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "cgroup"
    path.write_text(text)
    return path


def test_the_limit_of_a_container(tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    write(mount / "a" / "b", memory_dot_max="max")
    write(
        mount / "a",
        memory_dot_max=8 * int(GIB),
        memory_dot_current=7 * int(GIB),
        memory_dot_stat=f"anon 1\ninactive_file {int(GIB)}\nactive_file {int(GIB)}",
    )
    (found,) = groups(mount, own(tmp_path, "0::/a/b\n"), total=64 * int(GIB))
    assert found.limit == 8 * int(GIB)
    assert found.fraction() == pytest.approx(6 / 8)


def test_the_older_version(tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    write(
        mount / "memory",
        memory_dot_limit_in_bytes=4 * int(GIB),
        memory_dot_usage_in_bytes=3 * int(GIB),
        memory_dot_stat=f"inactive_file 5\ntotal_inactive_file {int(GIB)}\n",
    )
    # The path is that outside the container, and does not exist within it.
    lines = "9:name=systemd:/docker/x\n3:cpu,cpuacct:/docker/x\n2:memory:/docker/x\n"
    (found,) = groups(mount, own(tmp_path, lines), total=64 * int(GIB))
    assert found.fraction() == pytest.approx(2 / 4)


def test_a_limit_above_the_machine_is_none(tmp_path: Path) -> None:
    write(tmp_path / "mount", memory_dot_max=2**63 - 4096)
    assert groups(tmp_path / "mount", own(tmp_path, "0::/\n"), total=64 * int(GIB)) == []
    assert groups(tmp_path / "mount", tmp_path / "missing", total=64 * int(GIB)) == []


def test_the_tightest_limit_counts(tmp_path: Path) -> None:
    write(tmp_path, memory_dot_current=98, memory_dot_stat="")
    assert HostMemory([Group(tmp_path, 100, "memory.current", "inactive_file")]).fraction() == pytest.approx(0.98)
    memory = psutil.virtual_memory()
    gone = Group(tmp_path / "gone", 100, "memory.current", "inactive_file")
    assert HostMemory([gone]).fraction() == pytest.approx(1 - memory.available / memory.total, abs=0.2)


def test_it_is_read_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(resources.time, "monotonic", lambda: now[0])
    write(tmp_path, memory_dot_current=97, memory_dot_stat="")
    memory = HostMemory([Group(tmp_path, 100, "memory.current", "inactive_file")])
    assert memory.fraction() == pytest.approx(0.97)
    write(tmp_path, memory_dot_current=99)
    now[0] += 0.9
    assert memory.fraction() == pytest.approx(0.97)
    now[0] += 0.2
    assert memory.fraction() == pytest.approx(0.99)


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
