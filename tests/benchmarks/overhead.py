"""What the diagnostics cost a real GRPO run.

    python tests/benchmarks/overhead.py toy                         the tiny model, in memory
    python tests/benchmarks/overhead.py toy --before OTHER_CHECKOUT    beside another version of the package
    python tests/benchmarks/overhead.py gpt2                        124 million parameters, 8 completions of 32 tokens
    python tests/benchmarks/overhead.py gpt2 --mlflow               beside the trainer's own MLflow callback alone
    python tests/benchmarks/overhead.py gpt2 --in-turn              both arms in one process, a step of each in turn
    python tests/benchmarks/overhead.py toy --profile               where the time goes

Each run is a process of its own, with one thread for linear algebra. Runs of the arms alternate, so that a machine
that slows down slows all. With `--in-turn` they are two threads of one process, of which one runs at a time: a pair is
then two neighbouring steps, which differ by far less than the steps of two processes do. Prints the median and the 99th
percentile of the steps, of wall and of processor time of the training process (every thread of it), the ratio of the
medians pair by pair, and, with `--mlflow`, the processor time of the courier for each row.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import io
import json
import os
import pstats
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
WARM_UP_STEPS = 3
"""Steps at the beginning of each run that are not measured."""
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RLDK_SILENT": "1",
    "CUDA_VISIBLE_DEVICES": "",
}
GPT2 = {
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "num_generations": 8,
    "max_completion_length": 32,
    "learning_rate": 1e-6,
    "generation_kwargs": {"min_new_tokens": 32},
}
"""8 completions of 32 tokens; everything else as the package and TRL have it."""


class Turns:
    """Lets the trainings of one process run a step each in turn; one that is left alone does not wait."""

    def __init__(self, trainings: int) -> None:
        self._changed = threading.Condition()
        self._order = list(range(trainings))

    def take(self, training: int) -> None:
        """Give the turn away, and wait for the next."""
        with self._changed:
            if self._order[0] == training:
                self._order.append(self._order.pop(0))
                self._changed.notify_all()
            self._changed.wait_for(lambda: self._order[0] == training)

    def leave(self, training: int) -> None:
        """Take no turn any more."""
        with self._changed:
            self._order.remove(training)
            self._changed.notify_all()


class Training:
    """One run, and when its steps began and ended: (wall, processor) seconds."""

    def __init__(self, model: str, steps: int, watched: bool, mlflow: bool, folder: str) -> None:
        import torch
        from transformers import GPT2Config, GPT2LMHeadModel, TrainerCallback

        from rldk_tracking.callback import RLDKCallback
        from rldk_tracking.demo.trainers import grpo_trainer
        from rldk_tracking.trackers.memory import InMemoryTracker

        torch.set_num_threads(1)
        self.begins: list[tuple[float, float]] = []
        self.ends: list[tuple[float, float]] = []
        self.wait: Callable[[], None] | None = None
        self.profiler: cProfile.Profile | None = None
        training = self

        class Clock(TrainerCallback):  # type: ignore[misc]
            def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                training.ends.append((time.perf_counter(), time.process_time()))
                if training.wait is not None:
                    training.wait()
                training.begins.append((time.perf_counter(), time.process_time()))
                if training.profiler is not None and state.global_step == WARM_UP_STEPS:
                    training.profiler.enable()

        callbacks: list[Any] = [Clock()]
        if watched:
            callbacks.insert(0, RLDKCallback(trackers=None if mlflow else [InMemoryTracker()]))
        settings: dict[str, Any] = {"report_to": "mlflow" if mlflow else "none", "max_steps": steps + WARM_UP_STEPS + 1}
        if model == "gpt2":
            torch.manual_seed(0)
            settings |= {**GPT2, "model": GPT2LMHeadModel(GPT2Config(pad_token_id=0))}
        self.trainer = grpo_trainer(folder, callbacks=callbacks, **settings)

    def seconds(self) -> dict[str, Any]:
        """Of wall and of processor time of each step after the warm-up, from one's begin to the next's."""
        pairs = list(zip(self.begins[WARM_UP_STEPS:], self.ends[WARM_UP_STEPS + 1 :], strict=False))
        return {
            "wall": [after[0] - before[0] for before, after in pairs],
            "processor": [after[1] - before[1] for before, after in pairs],
            "courier": courier_seconds(),
            "rows": len(self.begins),
        }


def train(
    model: str, steps: int, watched: bool, mlflow: bool, profiler: cProfile.Profile | None = None
) -> dict[str, Any]:
    """One run alone."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        training = Training(model, steps, watched, mlflow, folder)
        training.profiler = profiler
        training.trainer.train()
        found = training.seconds()
    if profiler is not None:
        profiler.disable()
    return found


def train_in_turn(model: str, steps: int, mlflow: bool) -> list[dict[str, Any]]:
    """Runs without and with the package, a step of each in turn."""
    turns = Turns(2)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        trainings = [Training(model, steps, bool(arm), mlflow, f"{folder}/{arm}") for arm in range(2)]
        found: list[dict[str, Any]] = [{}, {}]

        def run_arm(arm: int) -> None:
            trainings[arm].wait = lambda: turns.take(arm)
            try:
                turns.take(arm)
                trainings[arm].trainer.train()
                found[arm] = trainings[arm].seconds()
            finally:
                turns.leave(arm)

        threads = [threading.Thread(target=run_arm, args=(arm,)) for arm in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return found


def courier_seconds() -> float:
    """Processor time so far of the courier that this process has started; 0 without one."""
    import psutil

    found = 0.0
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "rldk_tracking.courier" in child.cmdline():
                used = child.cpu_times()
                found += used.user + used.system
    return found


def run(arm: dict[str, Any], model: str, steps: int, uri: str | None) -> Any:
    """One run in a process of its own."""
    root = arm.get("root", ROOT)
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(root)}
    if uri is not None:
        environment["MLFLOW_TRACKING_URI"] = uri
    options = json.dumps([model, steps, *([arm["watched"]] if "watched" in arm else []), uri is not None])
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, str(Path(__file__).resolve()), "run", options],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            cwd=folder,
        )
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def percentile(values: list[float], share: float) -> float:
    """The smallest of the values that so large a share of them does not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def compare_in_turn(model: str, steps: int, uri: str | None) -> dict[str, float]:
    """Prints both arms, step by step in turn, and returns the median ratios of neighbouring steps."""
    without, watched = run({}, model, steps, uri)
    ratios = {}
    for kind in ("wall", "processor"):
        pairs = sorted(one / other for one, other in zip(watched[kind], without[kind], strict=False))
        ratios[kind] = statistics.median(pairs)
        error = 1.2533 * statistics.stdev(pairs) / len(pairs) ** 0.5  # of a median of values that are about normal
        medians = [1e3 * statistics.median(arm[kind]) for arm in (without, watched)]
        p99 = [1e3 * percentile(arm[kind], 0.99) for arm in (without, watched)]
        print(f"{kind}: without {medians[0]:.1f} ms (p99 {p99[0]:.1f}), with {medians[1]:.1f} ms (p99 {p99[1]:.1f});")
        print(f"  with / without, {len(pairs)} neighbouring steps: {ratios[kind]:.4f} +- {error:.4f}")
    if uri is not None:
        print(f"courier: {1e3 * watched['courier'] / watched['rows']:.1f} ms of processor time a row, start included")
    return ratios


def compare(model: str, steps: int, pairs: int, uri: str | None, before: Path | None) -> dict[str, float]:
    """Runs of every arm in turn; prints them and returns the median ratios to the run without the package."""
    arms: dict[str, dict[str, Any]] = {"without": {"watched": False}, "with": {"watched": True}}
    if before is not None:
        arms["before"] = {"watched": True, "root": before.resolve()}
    taken: dict[str, list[dict[str, Any]]] = {name: [] for name in arms}
    for number in range(pairs):
        order = list(arms) if number % 2 == 0 else list(reversed(arms))
        for name in order:
            taken[name].append(run(arms[name], model, steps, uri))
    for name, runs in taken.items():
        line = f"{name:8s}"
        for kind in ("wall", "processor"):
            values = [1e3 * value for found in runs for value in found[kind]]
            line += f"  {kind}: median {statistics.median(values):9.2f} ms, p99 {percentile(values, 0.99):9.2f} ms;"
        print(line)
    ratios: dict[str, float] = {}
    for name in [name for name in arms if name != "without"]:
        for kind in ("wall", "processor"):
            pairwise = [
                statistics.median(one[kind]) / statistics.median(other[kind])
                for one, other in zip(taken[name], taken["without"], strict=True)
            ]
            ratios[f"{name} {kind}"] = statistics.median(pairwise)
            shown = ", ".join(f"{ratio:.3f}" for ratio in pairwise)
            print(f"{name} / without, {kind}: {statistics.median(pairwise):.3f} (pairs: {shown})")
    rows = sum(found["rows"] for found in taken["with"])
    if uri is not None:
        used = sum(found["courier"] for found in taken["with"])
        print(f"courier: {1e3 * used / rows:.1f} ms of processor time a row, its start included ({rows} rows)")
    return ratios


def profile(model: str, steps: int) -> None:
    """Where the time of the steps goes."""
    profiler, output = cProfile.Profile(), io.StringIO()
    train(model, steps, True, False, profiler)
    pstats.Stats(profiler, stream=output).sort_stats("cumulative").print_stats("rldk_tracking", 60)
    print(output.getvalue())


def main() -> None:
    if sys.argv[1:2] == ["run"]:
        arguments = json.loads(sys.argv[2])
        print(json.dumps(train(*arguments) if len(arguments) == 4 else train_in_turn(*arguments)))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=["toy", "gpt2"])
    parser.add_argument("--steps", type=int)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--mlflow", action="store_true", help="report to an MLflow server on loopback, in both arms")
    parser.add_argument("--before", type=Path, help="a checkout of another version, as a third arm")
    parser.add_argument("--in-turn", action="store_true", help="a step of each arm in turn, in one process")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    steps = options.steps or (100 if options.model == "toy" else 8)
    if options.profile:
        os.environ.update(ENVIRONMENT)
        profile(options.model, steps)
        return

    def measure(uri: str | None) -> None:
        if options.in_turn:
            compare_in_turn(options.model, steps, uri)
        else:
            compare(options.model, steps, options.pairs, uri, options.before)

    if not options.mlflow:
        measure(None)
        return
    from tests.trackers.conftest import Server

    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        server.start()
        try:
            measure(server.uri)
        finally:
            server.kill()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(os.environ.get("PYTHONPATH", str(ROOT)).split(os.pathsep)[0])))
    main()
