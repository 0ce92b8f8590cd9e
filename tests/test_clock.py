"""The clock of the tests that bound a wait: a busy machine does not count, a sleep does."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.clock import own_time

BUSY = "while True: pass"


@pytest.mark.skipif(not Path("/proc/thread-self/schedstat").exists(), reason="the system does not tell")
def test_a_busy_machine_does_not_count() -> None:
    crowd = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(3 * (os.cpu_count() or 1))]
    try:
        time.sleep(0.3)  # until they run
        own, wall, used = own_time(), time.perf_counter(), time.thread_time()
        while time.thread_time() - used < 0.1:
            pass
        own, wall = own_time() - own, time.perf_counter() - wall
    finally:
        for process in crowd:
            process.kill()
            process.wait()
    assert 0.09 < own < 0.75 * wall


def test_a_sleep_counts() -> None:
    before = own_time()
    time.sleep(0.05)
    assert own_time() - before > 0.045
