"""Memory and load of this process and its GPU.

| key | unit | meaning |
|---|---|---|
| rldk/resources/gpu_memory_gib | GiB | held by tensors |
| rldk/resources/gpu_memory_reserved_gib | GiB | taken from the driver by torch's allocator |
| rldk/resources/gpu_memory_peak_gib | GiB | most that was held by tensors so far |
| rldk/resources/gpu_memory_fraction | share | of the GPU's memory that cannot be had, whoever holds it (driver) |
| rldk/resources/gpu_utilisation | share | of the driver's last sampling period in which a kernel ran (NVML) |
| rldk/resources/host_memory_fraction | share | of the machine's memory that cannot be had, see `host_memory` |
| rldk/resources/host_rss_gib | GiB | resident memory of the process |
| rldk/resources/host_rss_slope_gib_per_100_steps | GiB / 100 steps | trend of it, see `ResistantSlope` |

The last two of the GPU are its driver's, which is asked at most once a second, as a step begins and beside the
training; in between its last values are repeated.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from typing import Any

import psutil
import torch

from rldk_tracking.metrics.host_memory import HostMemory

GIB = float(1 << 30)
DRIVER_INTERVAL_SECONDS = 1.0


class ResistantSlope:
    """Slope through the medians of the first and the last third of a window (Tukey 1977, Exploratory Data Analysis).

    A single jump, such as the first batch of the longest length, moves it only while it lies within the window.

    Args:
        window: points that are kept.
        least: points below which there is no slope.
    """

    def __init__(self, window: int = 99, least: int = 21) -> None:
        self._points: deque[tuple[float, float]] = deque(maxlen=window)
        self._least = least

    def add(self, x: float, y: float) -> None:
        """A further point; x must not decrease (where it does, as after a restart, the window begins anew)."""
        if self._points and x < self._points[-1][0]:
            self._points.clear()
        self._points.append((x, y))

    def value(self) -> float | None:
        """Change of y per unit of x; None with too few points, or where x stood still."""
        count = len(self._points)
        if count < self._least:
            return None
        points, third = list(self._points), count // 3
        left, right = zip(*points[:third], strict=True), zip(*points[-third:], strict=True)
        x0, y0 = (statistics.median(values) for values in left)
        x1, y1 = (statistics.median(values) for values in right)
        return (y1 - y0) / (x1 - x0) if x1 > x0 else None


class ResourceMeter:
    """Reads the keys above for the process that made it.

    Args:
        device: the training device; without one, or on a device that is no CUDA GPU, the GPU's keys are absent.
    """

    def __init__(self, device: torch.device | str | None = None) -> None:
        self._process = psutil.Process()
        self._host = HostMemory()
        self._slope = ResistantSlope()
        self._device = _cuda(device)
        self._nvml = None if self._device is None else _nvml_handle(self._device)
        self._driver: dict[str, float] = {}
        self._asked = float("-inf")

    @property
    def has_driver(self) -> bool:
        """Whether there is a GPU's driver that can be asked."""
        return self._device is not None

    def read(self, step: int) -> dict[str, float]:
        """The present values. `step` is what the slope of the resident memory refers to."""
        resident = self._process.memory_info().rss / GIB
        self._slope.add(step, resident)
        metrics = {
            "rldk/resources/host_rss_gib": resident,
            "rldk/resources/host_memory_fraction": self._host.fraction(),
        }
        slope = self._slope.value()
        if slope is not None:
            metrics["rldk/resources/host_rss_slope_gib_per_100_steps"] = 100.0 * slope
        return metrics | self._gpu() | self._driver

    def ask_driver(self) -> None:
        """Ask the GPU's driver for what `read` then repeats. It may take milliseconds; from whatever thread."""
        now = time.monotonic()
        if self._device is None or now - self._asked < DRIVER_INTERVAL_SECONDS:
            return
        self._asked = now
        free, total = torch.cuda.mem_get_info(self._device)
        stats = torch.cuda.memory_stats(self._device)
        reusable = stats.get("reserved_bytes.all.current", 0) - stats.get("allocated_bytes.all.current", 0)
        found = {"rldk/resources/gpu_memory_fraction": 1.0 - (free + reusable) / total}
        if self._nvml is not None:
            import pynvml

            try:
                rates = pynvml.nvmlDeviceGetUtilizationRates(self._nvml)
            except pynvml.NVMLError:
                self._nvml = None
            else:
                found["rldk/resources/gpu_utilisation"] = rates.gpu / 100.0
        self._driver = found

    def _gpu(self) -> dict[str, float]:
        """What torch's allocator knows without asking."""
        if self._device is None:
            return {}
        stats = torch.cuda.memory_stats(self._device)
        return {
            "rldk/resources/gpu_memory_gib": stats.get("allocated_bytes.all.current", 0) / GIB,
            "rldk/resources/gpu_memory_reserved_gib": stats.get("reserved_bytes.all.current", 0) / GIB,
            "rldk/resources/gpu_memory_peak_gib": stats.get("allocated_bytes.all.peak", 0) / GIB,
        }


def _cuda(device: torch.device | str | None) -> torch.device | None:
    if device is None or torch.device(device).type != "cuda" or not torch.cuda.is_available():
        return None
    return torch.device(device)


def _nvml_handle(device: torch.device) -> Any:
    """NVML's handle of the GPU that torch means, found by its UUID; None where NVML does not know it."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
        return None if uuid is None else pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    except pynvml.NVMLError:
        return None
