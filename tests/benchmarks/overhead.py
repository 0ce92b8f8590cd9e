"""What the diagnostics cost a real GRPO run.

    python tests/benchmarks/overhead.py toy                         the tiny model, in memory
    python tests/benchmarks/overhead.py toy --before OTHER_CHECKOUT    beside another version of the package
    python tests/benchmarks/overhead.py gpt2                        124 million parameters, 8 completions of 32 tokens
    python tests/benchmarks/overhead.py gpt2 --mlflow               beside the trainer's own MLflow callback alone
    python tests/benchmarks/overhead.py toy --profile               where the time goes

Each run is a process of its own, with one thread for linear algebra. Runs of the arms alternate, so that a machine
that slows down slows all. Prints the median and the 99th percentile of the steps, of wall and of processor time of the
training process (every thread of it), the ratio of the medians pair by pair, and, with `--mlflow`, the processor time
of the courier for each row.
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
import time
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


def train(
    model: str, steps: int, watched: bool, mlflow: bool, profiler: cProfile.Profile | None = None
) -> dict[str, Any]:
    """One run: seconds of wall and of processor time of each step after the warm-up, from one's begin to the next's."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, TrainerCallback

    from rldk_tracking.callback import RLDKCallback
    from rldk_tracking.demo.trainers import grpo_trainer
    from rldk_tracking.trackers.memory import InMemoryTracker

    torch.set_num_threads(1)
    times: list[tuple[float, float]] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            times.append((time.perf_counter(), time.process_time()))
            if profiler is not None and state.global_step == WARM_UP_STEPS:
                profiler.enable()

    callbacks: list[Any] = [Clock()]
    if watched:
        callbacks.insert(0, RLDKCallback(trackers=None if mlflow else [InMemoryTracker()]))
    settings: dict[str, Any] = {"report_to": "mlflow" if mlflow else "none", "max_steps": steps + WARM_UP_STEPS + 1}
    if model == "gpt2":
        torch.manual_seed(0)
        settings |= {**GPT2, "model": GPT2LMHeadModel(GPT2Config(pad_token_id=0))}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        trainer = grpo_trainer(folder, callbacks=callbacks, **settings)
        trainer.train()
        courier = courier_seconds()
    if profiler is not None:
        profiler.disable()
    pairs = list(zip(times[WARM_UP_STEPS:], times[WARM_UP_STEPS + 1 :], strict=False))
    return {
        "wall": [after[0] - before[0] for before, after in pairs],
        "processor": [after[1] - before[1] for before, after in pairs],
        "courier": courier,
        "rows": len(times),
    }


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


def run(arm: dict[str, Any], model: str, steps: int, uri: str | None) -> dict[str, Any]:
    """One run in a process of its own."""
    root = arm.get("root", ROOT)
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(root)}
    if uri is not None:
        environment["MLFLOW_TRACKING_URI"] = uri
    options = json.dumps([model, steps, arm["watched"], uri is not None])
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
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def percentile(values: list[float], share: float) -> float:
    """The smallest of the values that so large a share of them does not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


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
        print(json.dumps(train(*json.loads(sys.argv[2]))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=["toy", "gpt2"])
    parser.add_argument("--steps", type=int)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--mlflow", action="store_true", help="report to an MLflow server on loopback, in both arms")
    parser.add_argument("--before", type=Path, help="a checkout of another version, as a third arm")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    steps = options.steps or (100 if options.model == "toy" else 8)
    if options.profile:
        os.environ.update(ENVIRONMENT)
        profile(options.model, steps)
        return
    if not options.mlflow:
        compare(options.model, steps, options.pairs, None, options.before)
        return
    from tests.trackers.conftest import Server

    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder))
        server.start()
        try:
            compare(options.model, steps, options.pairs, server.uri, options.before)
        finally:
            server.kill()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(os.environ.get("PYTHONPATH", str(ROOT)).split(os.pathsep)[0])))
    main()
