"""The loop that waits for nobody is timed whole, and what holds the machine's processors up is seen in it."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

from tests.faults.floor import EVENTS, STEP, measure

ROOT = Path(__file__).parents[2]


def test_an_undisturbed_loop_takes_as_long_as_the_events() -> None:
    begin = time.perf_counter()
    found = measure(20, beside=0)
    assert time.perf_counter() - begin > 0.5 * 20 * STEP
    # A processor that others use too counts slower at times, and faster than when it was asked never by much.
    assert 0.7 * 1000 * EVENTS < found.median < 4 * 1000 * EVENTS
    assert found.median <= found.longest
    assert found.above <= 20


def test_a_process_that_is_held_up_is_seen() -> None:
    """Stopped for 30 ms again and again, of which half of the stops come in what is timed."""
    work = f"from tests.faults.floor import measure; f = measure(400, 0, {2 * EVENTS}); print(f.longest, f.above)"
    process = subprocess.Popen([sys.executable, "-c", work], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    while process.poll() is None:
        time.sleep(0.05)
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.03)
        process.send_signal(signal.SIGCONT)
    assert process.stdout is not None
    longest, above = process.stdout.read().split()
    process.stdout.close()
    assert float(longest) > 25
    assert int(above) > 2


def test_processes_beside_it_are_there_and_end() -> None:
    def others() -> set[int]:
        return {child.pid for child in psutil.Process().children()} - before

    before: set[int] = set()
    before = others()
    most = 0
    measuring = threading.Thread(target=measure, args=(10, 2))
    measuring.start()
    while measuring.is_alive():
        most = max(most, len(others()))
        time.sleep(0.01)
    assert most == 2
    assert not others()
