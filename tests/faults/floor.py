"""How long the machine itself keeps a loop waiting that waits for nobody. No stall of the table can be held below that.

    python -m tests.faults.floor [--steps N]

The loop only counts. It is timed for as long as the events of a step take, in as many turns, and counts on between
them, as a training computes. Beside it other processes count: a tracker's server on the same machine is such a one.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

STEP, EVENTS, TURNS = 0.07, 0.0025, 8
"""Seconds of a step, seconds and number of our events in it, as in the table's trainings."""

BESIDE = (0, 1, 2)
AIM = 10.0


@dataclass(frozen=True)
class Floor:
    """What the loop waited.

    Attributes:
        beside: other processes that counted.
        steps: of the loop.
        median: milliseconds of the timed turns of a step.
        longest: the same of the longest step.
        above: steps above the aim of 10 ms.
    """

    beside: int
    steps: int
    median: float
    longest: float
    above: int


def count(times: int) -> None:
    """Nothing but time."""
    for _ in range(times):
        pass


def times_in(seconds: float) -> int:
    """How far this machine counts in so many seconds, when nobody disturbs it."""
    quickest, tries = float("inf"), 200_000
    for _ in range(20):
        begin = time.perf_counter()
        count(tries)
        quickest = min(quickest, time.perf_counter() - begin)
    return max(1, int(tries * seconds / quickest))


def measure(steps: int, beside: int, step: float = STEP) -> Floor:
    """The loop of so many steps, of so many seconds each, beside so many others."""
    timed, between = times_in(EVENTS / TURNS), times_in((step - EVENTS) / TURNS)
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(beside)]
    waits = []
    try:
        for _ in range(steps):
            wait = 0.0
            for _ in range(TURNS):
                begin = time.perf_counter()
                count(timed)
                wait += time.perf_counter() - begin
                count(between)
            waits.append(1000 * wait)
    finally:
        for other in others:
            other.kill()
            other.wait()
    return Floor(beside, steps, statistics.median(waits), max(waits), sum(wait > AIM for wait in waits))


def main(argv: list[str]) -> int:
    """Print a line for each number of other processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1600)
    arguments = parser.parse_args(argv)
    print("processes beside  steps  median, ms  longest, ms  above 10 ms")
    for beside in BESIDE:
        found = measure(arguments.steps, beside)
        figures = f"{found.steps:5d}  {found.median:10.1f}  {found.longest:11.1f}  {found.above:11d}"
        print(f"{beside:16d}  {figures}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
