"""Many steps of callback events in one process: time of a step, memory, threads, files.

    python tests/benchmarks/leak.py [steps]

Fires on_step_begin, on_step_end and on_log by hand with the logs of a GRPO trainer and without a rollout; one
optimizer step in each, so that the hooks have something to see.
"""

from __future__ import annotations

import contextlib
import gc
import os
import statistics
import sys
import tempfile
import threading
import time
from array import array
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import torch
from transformers import TrainingArguments

from rldk_tracking.callback import RLDKCallback
from rldk_tracking.trackers.base import Tracker
from rldk_tracking.trackers.jsonl import JsonlTracker

LOGS = {
    "loss": 0.1,
    "grad_norm": 0.7,
    "learning_rate": 1e-6,
    "num_tokens": 5000.0,
    "completions/mean_length": 100.0,
    "completions/min_length": 10.0,
    "completions/max_length": 200.0,
    "completions/clipped_ratio": 0.1,
    "rewards/f/mean": 0.5,
    "rewards/f/std": 0.2,
    "reward": 0.5,
    "reward_std": 0.2,
    "frac_reward_zero_std": 0.0,
    "kl": 0.01,
    "entropy": 1.2,
    "clip_ratio/region_mean": 0.01,
    "step_time": 0.3,
    "epoch": 0.1,
}


WARM_UP = 1000
PAIRS = 500


class Sink(Tracker):
    """A backend off the training thread that takes everything."""

    name = "sink"

    def log(self, metrics: Any, step: int) -> None:
        return None


@dataclass
class Result:
    """What a long run cost.

    Attributes:
        seconds: of on_log and on_step_end of each step, on the training thread.
        work: of these, seconds of processor time, which other processes of the machine do not add to.
        calls: functions that the training thread called in the steps of `counted`. Other than times, they do not depend
            on what else the machine does.
        pairs: seconds of processor time of a step of the long training and of one of a training that has just begun,
            taken in turn.
        memory: (step, MiB of resident memory) now and then.
        left: threads and files that are there afterwards and were not before.
    """

    seconds: array[float]
    work: array[float]
    calls: list[int] = field(default_factory=list)
    pairs: list[tuple[float, float]] = field(default_factory=list)
    memory: list[tuple[int, float]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def ends(self, times: Sequence[float]) -> tuple[float, float]:
        """Median microseconds of a thousand steps after a warm-up and of the last but the counted."""
        return 1e6 * statistics.median(times[1100:2100]), 1e6 * statistics.median(times[-1100:-100])

    def quick_end(self) -> float:
        """Microseconds of processor time at the tenth percentile of the last: what a busy machine adds is left out."""
        return 1e6 * statistics.quantiles(self.work[-1100:-100], n=10)[0]

    def slowdown(self) -> float:
        """How much slower a step is late in a training than early.

        Both are measured within the same seconds. A minute before, the same step may have taken a third less or more
        of the same machine, whose processors and caches others use too.
        """
        return statistics.median(old / young for old, young in self.pairs)

    def calls_at_the_ends(self) -> tuple[float, float]:
        """Mean number of calls of a step, in the first and in the last hundred that were counted."""
        return statistics.mean(self.calls[:100]), statistics.mean(self.calls[-100:])

    def growth(self) -> float:
        """MiB between the end of the first fifth and the end."""
        after = [mib for step, mib in self.memory if step >= len(self.seconds) // 5]
        return after[-1] - after[0]


class Training:
    """A model of one layer, and the events of its training."""

    def __init__(self, folder: Path) -> None:
        self.model = torch.nn.Linear(8, 8)
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self.state = SimpleNamespace(global_step=0, stateful_callbacks={}, is_world_process_zero=True)
        control = SimpleNamespace(should_log=True, should_save=False, should_training_stop=False)
        args = TrainingArguments(output_dir=str(folder), report_to="none", use_cpu=True)
        self._event = {"args": args, "state": self.state, "control": control}
        self._event |= {"model": self.model, "optimizer": self.optimizer}
        self.callback = RLDKCallback(trackers=[Sink(), JsonlTracker(folder / "rows")])
        self.callback.on_train_begin(**self._event)

    def step(self, calls: AbstractContextManager[object] | None = None) -> tuple[float, float]:
        """One step. Seconds, and seconds of processor time, of its last two events."""
        self.callback.on_step_begin(**self._event)
        self.model(torch.ones(1, 8)).sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.state.global_step += 1
        noise = 1 + 0.01 * ((self.state.global_step * 7919) % 13)
        logs = {key: value * noise for key, value in LOGS.items()}
        begin, worked = time.perf_counter(), time.thread_time()
        with calls if calls is not None else contextlib.nullcontext():
            self.callback.on_step_end(**self._event)
            self.callback.on_log(**self._event, logs=logs)
        return time.perf_counter() - begin, time.thread_time() - worked

    def settle(self) -> None:
        """Wait until the steps so far are judged."""
        _ = self.callback.metrics

    def end(self) -> None:
        """Train end."""
        self.callback.on_train_end(**self._event)

    @property
    def hooks(self) -> int:
        """That are on the optimizer."""
        return len(self.optimizer._optimizer_step_pre_hooks) + len(self.optimizer._optimizer_step_post_hooks)


class Calls:
    """Counts the functions, of Python and of C, that this thread calls."""

    def __init__(self) -> None:
        self.number = 0

    def __enter__(self) -> None:
        sys.setprofile(self._seen)

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)

    def _seen(self, frame: Any, event: str, argument: Any) -> None:
        self.number += event in ("call", "c_call")


def everything_open() -> set[str]:
    process = psutil.Process()
    files = {f"file {os.readlink(f'/proc/self/fd/{fd}')}" for fd in os.listdir("/proc/self/fd") if _is_file(fd)}
    threads = {f"thread {thread.name}" for thread in threading.enumerate()}
    return files | threads | {f"child {child.pid}" for child in process.children()}


def _is_file(descriptor: str) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}").startswith("/tmp")
    except OSError:
        return False


def counted(step: int, steps: int) -> bool:
    """Whether calls are counted in this step: a hundred after a warm-up, and the last hundred."""
    return 1000 <= step < 1100 or step > steps - 100


def go(steps: int, folder: Path, pause: float = 0.0) -> Result:
    """Fire the events of so many steps, then those of `PAIRS` more beside those of a training that has just begun."""
    torch.set_num_threads(1)
    before, process = everything_open(), psutil.Process()
    # Of their full length from the start, so that they are no growth.
    result = Result(*(array("d", bytes(8 * steps)) for _ in range(2)))
    training = Training(folder)
    for step in range(1, steps + 1):
        calls = Calls() if counted(step, steps) else None
        result.seconds[step - 1], result.work[step - 1] = training.step(calls)
        if calls is not None:
            result.calls.append(calls.number)
        if pause:
            time.sleep(pause)
        if step % max(1, steps // 10) == 0:
            gc.collect()
            result.memory.append((step, process.memory_info().rss / 2**20))
    result.pairs = in_turn(training, Training(folder / "young"))
    training.end()
    deadline = time.monotonic() + 5
    while (left := everything_open() - before) and time.monotonic() < deadline:
        time.sleep(0.05)
    result.left = sorted(left) + [f"{training.hooks} hooks"] * bool(training.hooks)
    return result


def in_turn(old: Training, young: Training) -> list[tuple[float, float]]:
    """Seconds of processor time of a step of each, after the young one's warm-up; neither beside the other's judging.

    The one that is second finds the caches as the first one left them, so they take turns in that too.
    """
    for _ in range(WARM_UP):
        young.step()
    pairs = []
    for number in range(PAIRS):
        work = {}
        for training in (old, young) if number % 2 else (young, old):
            old.settle()
            young.settle()
            work[training] = training.step()[1]
        pairs.append((work[old], work[young]))
    young.end()
    return pairs


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        found = go(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000, Path(place), float(os.environ.get("PAUSE", "0")))
    print(f"steps {len(found.seconds)}")
    for what, times in (("wall", found.seconds), ("processor", found.work)):
        first, last = found.ends(times)
        print(f"on_step_end and on_log, {what} time: {first:.0f} us a step at first, {last:.0f} us at the end")
    print(f"a late step takes {found.slowdown():.2f} times the processor time of an early one beside it")
    print("calls a step: {:.0f} at first, {:.0f} at the end".format(*found.calls_at_the_ends()))
    print(f"memory after the first fifth: {found.growth():+.1f} MiB")
    print(f"left behind: {found.left or 'nothing'}")
