"""What the diagnostics cost a real GRPO run on the toy task.

    python tests/benchmarks/overhead.py [--steps 60] [--pairs 5] [--profile]

Runs without and with the callback alternate, so that a machine that slows down slows both. Prints the ratio of their
median steps, and the time of each event, on the training thread and beside it. Processor time counts every thread of
the process and sees little of what else the machine does; wall time is what the user waits for.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import io
import os
import pstats
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "HF_HUB_OFFLINE"):
    os.environ.setdefault(variable, "1")

import torch  # noqa: E402
from transformers import TrainerCallback  # noqa: E402

from rldk_tracking import run as module  # noqa: E402
from rldk_tracking.ahead import Ahead  # noqa: E402
from rldk_tracking.callback import RLDKCallback  # noqa: E402
from rldk_tracking.demo.trainers import grpo_trainer  # noqa: E402
from rldk_tracking.sources.optimizer import OptimizerSource  # noqa: E402
from rldk_tracking.sources.trl_grpo import GroupSource  # noqa: E402
from rldk_tracking.trackers.memory import InMemoryTracker  # noqa: E402

WARM_UP = 5
"""Steps at the beginning that are not measured."""
EVENTS = {
    RLDKCallback: ("on_step_begin", "on_step_end", "on_log"),
    GroupSource: ("_keep_generation", "_keep_logprobs", "_begin_backward"),
    OptimizerSource: ("_before_clipping", "_before_step", "_after_step"),
    Ahead: ("compute",),
    module.Run: ("_judge",),
    module: ("reduced",),
}


class Clock(TrainerCallback):
    """Wall and processor time of each step, from its beginning to the next one's, after the warm-up."""

    def __init__(self) -> None:
        self.times: list[tuple[float, float]] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= WARM_UP:
            self.times.append((time.perf_counter(), time.process_time()))

    def median(self) -> tuple[float, float]:
        pairs = zip(self.times, self.times[1:], strict=False)
        wall, processor = zip(*((b[0] - a[0], b[1] - a[1]) for a, b in pairs), strict=True)
        return statistics.median(wall), statistics.median(processor)


def train(steps: int, callbacks: list[TrainerCallback]) -> tuple[float, float]:
    """Seconds of the median step, of wall and of processor time."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        grpo_trainer(folder, max_steps=steps + WARM_UP, callbacks=[*callbacks, clock]).train()
    return clock.median()


@contextlib.contextmanager
def timed_events(times: dict[str, list[float]]) -> Iterator[None]:
    """Processor time of the calling thread in each event."""
    originals = [(owner, name, getattr(owner, name)) for owner, names in EVENTS.items() for name in names]
    for owner, name, original in originals:

        def timed(*args: Any, original: Callable[..., Any] = original, name: str = name, **kwargs: Any) -> Any:
            before = time.thread_time()
            try:
                return original(*args, **kwargs)
            finally:
                beside = "" if threading.current_thread() is threading.main_thread() else " (beside the training)"
                times[name + beside].append(time.thread_time() - before)

        setattr(owner, name, timed)
    try:
        yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)


def compare(steps: int, pairs: int) -> None:
    """Pairs of runs without and with the callback."""
    ratios = []
    for number in range(pairs):
        without = train(steps, [])
        within = train(steps, [RLDKCallback(trackers=[InMemoryTracker()])])
        ratios.append((within[0] / without[0], within[1] / without[1]))
        shown = "{:.1f} ms a step ({:.1f} ms of processor time)"
        bare, whole = (shown.format(1e3 * wall, 1e3 * processor) for wall, processor in (without, within))
        print(f"pair {number + 1}: without {bare}, with {whole}")
    wall, processor = (statistics.median(column) for column in zip(*ratios, strict=True))
    print(f"overhead, median of {pairs} pairs: {wall - 1:+.1%} of wall time, {processor - 1:+.1%} of processor time")


def events(steps: int) -> None:
    """Processor time of each event."""
    times: dict[str, list[float]] = defaultdict(list)
    with timed_events(times):
        train(steps, [RLDKCallback(trackers=[InMemoryTracker()])])
    for name, taken in sorted(times.items(), key=lambda item: -sum(item[1])):
        median, total = statistics.median(taken), sum(taken) / (steps + WARM_UP)
        print(f"{name:40s} {1e6 * median:8.0f} us a call, {1e6 * total:8.0f} us a step")


def profile(steps: int) -> None:
    """Where the time goes, with everything on one thread."""
    profiler, output = cProfile.Profile(), io.StringIO()
    profiler.enable()
    train(steps, [RLDKCallback(trackers=[InMemoryTracker()], strict=True)])
    profiler.disable()
    pstats.Stats(profiler, stream=output).sort_stats("cumulative").print_stats("rldk_tracking", 60)
    print(output.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    train(WARM_UP, [])
    if options.profile:
        profile(options.steps)
        return
    compare(options.steps, options.pairs)
    events(options.steps)


if __name__ == "__main__":
    main()
