from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import psutil

from rldk_tracking.journal.watch import Trainer, Watch


def test_a_pause_is_short_where_something_came_and_shorter_where_somebody_waits() -> None:
    watch, waited = Watch(), []
    for active in (True, False):
        start = time.monotonic()
        watch.pause(active)
        waited.append(time.monotonic() - start)
    assert 0.15 < waited[0] < 0.9 < waited[1]
    watch.hurry()
    start = time.monotonic()
    watch.pause(active=False)
    assert time.monotonic() - start < 0.5


def test_all_that_sleep_are_woken() -> None:
    watch, awake = Watch(), []
    threads = [threading.Thread(target=lambda: (watch.sleep(30), awake.append(1))) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    watch.hurry()
    for thread in threads:
        thread.join(5)
    assert len(awake) == 3


def test_time_that_is_up() -> None:
    watch = Watch()
    assert not watch.is_out_of_time
    watch.limit(0.2)
    watch.limit(100.0)
    start = time.monotonic()
    watch.sleep(30)
    assert time.monotonic() - start < 5
    assert watch.is_out_of_time
    other = Watch()
    other.stop()
    other.sleep(30)
    assert other.is_out_of_time


def test_a_process_that_ends_and_is_not_asked_for_its_exit_code() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    trainer = Trainer(process.pid, psutil.Process(process.pid).create_time())
    assert trainer.is_alive
    os.kill(process.pid, signal.SIGSTOP)
    assert trainer.is_alive
    process.kill()
    deadline = time.monotonic() + 10
    while trainer.is_alive and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not trainer.is_alive, "although it is a zombie still"
    process.wait()
    assert not trainer.is_alive
