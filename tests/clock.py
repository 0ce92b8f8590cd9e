"""Time that does not grow because the machine is busy with others."""

from __future__ import annotations

import time
from pathlib import Path

_SCHEDULER = Path("/proc/thread-self/schedstat")


def own_time() -> float:
    """Seconds by the wall, less those in which this thread was ready to run and the machine had no core for it.

    What the thread computes counts, and what it waits for: a lock, a disk, the network. Where the system does not tell
    how long it waited for a core (the second number of Linux' schedstat, in nanoseconds), it is the wall's time.
    """
    try:
        without_a_core = int(_SCHEDULER.read_text(encoding="ascii").split()[1])
    except OSError:
        without_a_core = 0
    return time.perf_counter() - without_a_core / 1e9
