"""How much of the machine's memory is gone, where "the machine" may be a container with a limit of its own.

A training that is killed for memory is killed at the first limit that it meets: the machine's, or that of a control
group it runs in. The share is the largest of them. Page cache that can be dropped does not count, as in Docker's own
figures.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

INTERVAL_SECONDS = 1.0
MOUNT, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


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
    """Reads the share at most once a second; in between its last value is repeated.

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
