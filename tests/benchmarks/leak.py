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
        reference: seconds of processor time of `fixed_work` beside each step: how fast the machine was just then.
        memory: (step, MiB of resident memory) now and then.
        left: threads and files that are there afterwards and were not before.
    """

    seconds: array[float]
    work: array[float]
    calls: list[int] = field(default_factory=list)
    reference: array[float] = field(default_factory=lambda: array("d"))
    memory: list[tuple[int, float]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def ends(self, times: Sequence[float]) -> tuple[float, float]:
        """Median microseconds of a thousand steps after a warm-up and of the last but the counted."""
        return 1e6 * statistics.median(times[1100:2100]), 1e6 * statistics.median(times[-1100:-100])

    def quick_ends(self) -> tuple[float, float]:
        """The same of processor time at the tenth percentile: what a busy machine adds is left out."""
        return self._tenth(self.work[1100:2100]), self._tenth(self.work[-1100:-100])

    def slowdown(self) -> float:
        """How much slower the last steps were than the first, the machine's own share of it taken out."""
        (first, last), reference = self.quick_ends(), self.reference
        return (last / first) / (self._tenth(reference[-1100:-100]) / self._tenth(reference[1100:2100]))

    @staticmethod
    def _tenth(times: Sequence[float]) -> float:
        return 1e6 * statistics.quantiles(times, n=10)[0]

    def calls_at_the_ends(self) -> tuple[float, float]:
        """Mean number of calls of a step, in the first and in the last hundred that were counted."""
        return statistics.mean(self.calls[:100]), statistics.mean(self.calls[-100:])

    def growth(self) -> float:
        """MiB between the end of the first fifth and the end."""
        after = [mib for step, mib in self.memory if step >= len(self.seconds) // 5]
        return after[-1] - after[0]


def fixed_work() -> dict[str, float]:
    """The same at every step, and of the kind that a step does: names and numbers."""
    found: dict[str, float] = {}
    for number in range(400):
        found[f"rldk/{number % 40}"] = number / 7
    return found


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
    """Fire the events of so many steps."""
    torch.set_num_threads(1)
    model = torch.nn.Linear(8, 8)
    optimizer = torch.optim.AdamW(model.parameters())
    args = TrainingArguments(output_dir=str(folder), report_to="none", use_cpu=True)
    state = SimpleNamespace(global_step=0, stateful_callbacks={}, is_world_process_zero=True)
    control = SimpleNamespace(should_log=True, should_save=False, should_training_stop=False)
    kwargs = {"model": model, "optimizer": optimizer}
    before, process = everything_open(), psutil.Process()
    # Of their full length from the start, so that they are no growth.
    seconds, work, reference = (array("d", bytes(8 * steps)) for _ in range(3))
    result = Result(seconds, work, reference=reference)
    callback = RLDKCallback(trackers=[Sink(), JsonlTracker(folder / "rows")])
    callback.on_train_begin(args, state, control, **kwargs)
    for step in range(1, steps + 1):
        callback.on_step_begin(args, state, control, **kwargs)
        model(torch.ones(1, 8)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        state.global_step = step
        logs = {key: value * (1 + 0.01 * ((step * 7919) % 13)) for key, value in LOGS.items()}
        calls = Calls() if counted(step, steps) else contextlib.nullcontext()
        begin, worked = time.perf_counter(), time.thread_time()
        with calls:
            callback.on_step_end(args, state, control, **kwargs)
            callback.on_log(args, state, control, logs=logs, **kwargs)
        result.seconds[step - 1] = time.perf_counter() - begin
        result.work[step - 1] = time.thread_time() - worked
        begun = time.thread_time()
        fixed_work()
        result.reference[step - 1] = time.thread_time() - begun
        if isinstance(calls, Calls):
            result.calls.append(calls.number)
        if pause:
            time.sleep(pause)
        if step % max(1, steps // 10) == 0:
            gc.collect()
            result.memory.append((step, process.memory_info().rss / 2**20))
    callback.on_train_end(args, state, control, **kwargs)
    hooks = len(optimizer._optimizer_step_pre_hooks) + len(optimizer._optimizer_step_post_hooks)
    deadline = time.monotonic() + 5
    while (left := everything_open() - before) and time.monotonic() < deadline:
        time.sleep(0.05)
    result.left = sorted(left) + [f"{hooks} hooks"] * bool(hooks)
    return result


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        found = go(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000, Path(place), float(os.environ.get("PAUSE", "0")))
    print(f"steps {len(found.seconds)}")
    for what, times in (("wall", found.seconds), ("processor", found.work)):
        first, last = found.ends(times)
        print(f"on_step_end and on_log, {what} time: {first:.0f} us a step at first, {last:.0f} us at the end")
    print("calls a step: {:.0f} at first, {:.0f} at the end".format(*found.calls_at_the_ends()))
    print(f"memory after the first fifth: {found.growth():+.1f} MiB")
    print(f"left behind: {found.left or 'nothing'}")
