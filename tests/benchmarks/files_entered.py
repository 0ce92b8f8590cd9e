"""How much of the package a steady GRPO step enters.

    python tests/benchmarks/files_entered.py [--steps 8] [--list]

Trains the tiny model into an MLflow store with `sys.setprofile`, and counts, for each step after the warm-up, the files
of the package that are entered on the training thread and the calls; and names the threads of the package.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
for variable, value in {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "RLDK_SILENT": "1"}.items():
    os.environ.setdefault(variable, value)

import rldk_tracking  # noqa: E402

PACKAGE = str(Path(rldk_tracking.__file__).parent) + os.sep
DEMO = f"{os.sep}demo{os.sep}"
"""The toy's own task, which is no part of what is measured."""
WARM_UP_STEPS = 3


def count(folder: Path, steps: int) -> tuple[list[Counter[str]], set[str]]:
    """Calls by file of the package, for each of the steady steps, and names of the package's threads."""
    from transformers import TrainerCallback

    from rldk_tracking.callback import RLDKCallback
    from rldk_tracking.demo.trainers import grpo_trainer

    calls: list[Counter[str]] = []
    threads: set[str] = set()

    def on_call(frame: FrameType, event: str, argument: Any) -> None:
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(PACKAGE) and DEMO not in name:
            calls[-1][name.removeprefix(PACKAGE)] += 1

    class Window(TrainerCallback):  # type: ignore[misc]
        """The first of the callbacks: its `on_step_begin` is where a step begins."""

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            sys.setprofile(None)
            threads.update(thread.name for thread in threading.enumerate() if thread.name.startswith("rldk"))
            if WARM_UP_STEPS <= state.global_step < WARM_UP_STEPS + steps:
                calls.append(Counter())
                sys.setprofile(on_call)

    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = grpo_trainer(
            folder, max_steps=steps + WARM_UP_STEPS + 2, report_to="mlflow", callbacks=[Window(), RLDKCallback()]
        )
        trainer.train()
    return calls, threads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--list", action="store_true", help="name the files, with the calls of all steps")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        calls, threads = count(Path(folder), options.steps)
    together: Counter[str] = sum(calls, Counter())
    files = sorted(len(step) for step in calls)
    print(f"files of the package in a step: median {files[len(files) // 2]}, most {files[-1]}; in all {len(together)}")
    print(f"calls in a step: {sum(together.values()) / len(calls):.0f}")
    print(f"threads of the package: {', '.join(sorted(threads)) or 'none'}")
    if options.list:
        for name, number in together.most_common():
            print(f"{number:8d}  {name}")


if __name__ == "__main__":
    main()
