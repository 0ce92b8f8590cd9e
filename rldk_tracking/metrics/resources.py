"""Memory and load of this process and its GPU, and how fast its training goes.

Keys, read by `rldk_tracking.metrics.keys`:

    rldk/resources/gpu_memory_gib | GiB | host | lower | max over ranks
        GPU memory held by tensors, of the fullest rank.
        = torch's allocated memory
    rldk/resources/gpu_memory_reserved_gib | GiB | host | lower | max over ranks
        GPU memory taken from the driver, of the fullest rank.
        = torch's reserved memory
    rldk/resources/gpu_memory_peak_gib | GiB | host | lower | max over ranks
        Most GPU memory that tensors have held so far.
        = torch's peak of allocated memory
    rldk/resources/gpu_memory_fraction | 1 | host | lower | max over ranks
        Share of the GPU's memory that cannot be had, whoever holds it.
        = 1 - (free + reserved by torch and not held by tensors) / total
    rldk/resources/gpu_utilisation | 1 | host | higher
        Share of the time in which a kernel ran.
        = NVML's last sampling period, mean over ranks
    rldk/resources/host_memory_fraction | 1 | host | lower | max over ranks
        Share of the machine's memory, or of a container's limit, that cannot be had.
        = 1 - available / total; used without droppable cache / cgroup limit
    rldk/resources/host_rss_gib | GiB | host | lower | max over ranks
        Resident memory of the training process, of the largest rank.
        = as the operating system says
    rldk/resources/host_rss_slope_gib_per_100_steps | GiB per 100 steps | host | lower | max over ranks
        Trend of the resident memory; lastingly above 0 something leaks.
        = resistant line through the last steps (Tukey 1977)
    rldk/throughput/step_seconds | s | host | lower | max over ranks
        Wall time of a step, of the slowest rank.
        = from the end of one step to that of the next, without evaluation and saving
    rldk/throughput/tokens_per_second | 1/s | host | higher | sum over ranks
        Response tokens of all ranks.
        = tokens / time of the step
    rldk/throughput/samples_per_second | 1/s | host | higher | sum over ranks
        Completions of all ranks.
        = completions / time of the step
    rldk/throughput/rollout_fraction | 1 | host
        Share of the step that goes into sampling and scoring.
        = time of sampling and scoring / time of the step

The GPU's `memory_fraction` and `utilisation` are its driver's, which is asked as a step begins and beside the training.
It and the machine are asked at most once a second; in between their last values are repeated.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from rldk_tracking.metrics.statistics import ResistantSlope

GIB = float(1 << 30)
INTERVAL_SECONDS = 1.0
MOUNT, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


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
        if self._device is None or now - self._asked < INTERVAL_SECONDS:
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


@dataclass(frozen=True)
class Group:
    """A control group with a memory limit.

    Attributes:
        folder: where its files are.
        limit: bytes.
        current, cache: names of the file with its use, and of the line in `memory.stat` with the cache in it.
    """

    folder: Path
    limit: int
    current: str
    cache: str

    def fraction(self) -> float | None:
        """Share of the limit in use; None where it cannot be read."""
        try:
            used = int((self.folder / self.current).read_text())
            for line in (self.folder / "memory.stat").read_text().splitlines():
                name, _, value = line.partition(" ")
                if name == self.cache:
                    used -= int(value)
        except (OSError, ValueError):
            return None
        return max(0, used) / self.limit


def groups(mount: Path = MOUNT, own: Path = OWN, total: int | None = None) -> list[Group]:
    """The groups that this process is in whose limit is below the machine's memory, versions 2 and 1.

    Args:
        mount: where control groups are mounted.
        own: the file that names this process's groups.
        total: the machine's memory in bytes.
    """
    total = psutil.virtual_memory().total if total is None else total
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            names = ("memory.max", "memory.current", "inactive_file")
            base = mount
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            base = mount / "memory"
        else:
            continue
        for folder in _upwards(base, path):
            limit = _number(folder / names[0])
            if limit is not None and 0 < limit < total:
                found.append(Group(folder, limit, names[1], names[2]))
    return found


class HostMemory:
    """How much of the machine's memory is gone, where "the machine" may be a container with a limit of its own.

    A training that is killed for memory is killed at the first limit that it meets: the machine's, or that of a control
    group it runs in. The share is the largest of them. Page cache that can be dropped does not count, as in Docker's.

    Args:
        limits: the control groups to ask.
    """

    def __init__(self, limits: list[Group] | None = None) -> None:
        self._limits = groups() if limits is None else limits
        self._value = 0.0
        self._read = float("-inf")

    def fraction(self) -> float:
        """Share of the memory that cannot be had, whoever holds it, at the tightest limit."""
        now = time.monotonic()
        if now - self._read >= INTERVAL_SECONDS:
            self._read = now
            memory = psutil.virtual_memory()
            shares = [1.0 - memory.available / memory.total, *(group.fraction() for group in self._limits)]
            self._value = max(share for share in shares if share is not None)
        return self._value


def _upwards(base: Path, path: str) -> Iterator[Path]:
    """The group's folder and all above it. A container may see its own group as the root, under another path."""
    parts = [part for part in path.split("/") if part and part != ".."]
    for count in range(len(parts), -1, -1):
        yield base.joinpath(*parts[:count])


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # "max" is no limit
        return None


class ThroughputMeter:
    """Measures from one reading to the next; the first reading yields nothing.

    >>> meter = ThroughputMeter()
    >>> meter.read(1, 10.0)
    {}
    >>> meter.read(2, 12.0, tokens=100)
    {'rldk/throughput/step_seconds': 2.0, 'rldk/throughput/tokens_per_second': 50.0}
    """

    def __init__(self) -> None:
        self._last: tuple[int, float] | None = None

    def read(
        self,
        step: int,
        now: float,
        *,
        tokens: float | Tensor | None = None,
        samples: float | None = None,
        rollout_seconds: float | None = None,
    ) -> dict[str, float | Tensor]:
        """The keys of the steps since the last reading.

        Args:
            step: the present global step. Where it has not advanced, or has gone back, the clock starts anew.
            now: when it ended, in seconds of a clock that never goes back. It may stand still in what shall not count.
            tokens, samples: how many this rank worked on since the last reading.
            rollout_seconds: how long this rank sampled and scored since the last reading.
        """
        last, self._last = self._last, (step, now)
        if last is None or step <= last[0] or now <= last[1]:
            return {}
        seconds = now - last[1]
        metrics: dict[str, float | Tensor] = {"rldk/throughput/step_seconds": seconds / (step - last[0])}
        if tokens is not None:
            metrics["rldk/throughput/tokens_per_second"] = tokens / seconds
        if samples is not None:
            metrics["rldk/throughput/samples_per_second"] = samples / seconds
        if rollout_seconds is not None:
            metrics["rldk/throughput/rollout_fraction"] = min(1.0, rollout_seconds / seconds)
        return metrics
