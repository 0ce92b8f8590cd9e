"""Runs of the tiny model whose rows are kept, so that they can be judged again without training."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults import FAULTS, Fault
from healthy import HEALTHY, STEPS

KINDS = ("grpo", "rloo", "ppo")


@dataclass(frozen=True)
class Planned:
    """One run: a trainer, a healthy configuration or a fault, and a seed."""

    kind: str
    name: str
    seed: int

    @property
    def fault(self) -> Fault | None:
        return FAULTS.get(self.name)

    def path(self, keep: Path) -> Path:
        """Where its rows are kept."""
        return keep / f"{self.kind}-{self.name.replace(' ', '_').replace(',', '')}-{self.seed}.jsonl"


def plan(kinds: list[str], seeds: int, full: int, only: list[str]) -> Iterator[Planned]:
    """All runs, the first seed of everything before the second of anything.

    The first `full` seeds have every trainer that the configuration or fault fits, the others one of them, by turns.
    """
    names: dict[str, tuple[str, ...]] = {
        name: tuple(k for k in KINDS if name in HEALTHY[k]) for name in HEALTHY["grpo"]
    }
    names |= {name: fault.kinds for name, fault in FAULTS.items()}
    for seed in range(seeds):
        for number, (name, fits) in enumerate(names.items()):
            able = [kind for kind in fits if kind in kinds]
            if able and (not only or name in only):
                for kind in able if seed < full else [able[(seed + number) % len(able)]]:
                    yield Planned(kind, name, seed)


def train(run: Planned, keep: Path) -> Path:
    """The file of a run's rows, from the folder or by training."""
    path = run.path(keep)
    if path.exists():
        return path
    from transformers import PrinterCallback

    from rldk_tracking import JsonlTracker, RLDKCallback
    from rldk_tracking.demo import trainers

    partial = keep / f"{path.stem}.part.jsonl"
    partial.unlink(missing_ok=True)
    settings: dict[str, Any] = {"max_steps": STEPS}
    options: dict[str, Any] = {}
    step, apply = 1, None
    if run.fault is None:
        settings |= HEALTHY[run.kind][run.name]
        apply = settings.pop("apply", None)
    else:
        settings["max_steps"] = run.fault.steps
        step, apply, options = begin(run), run.fault.apply, dict(run.fault.options)
        settings |= run.fault.settings(run.kind, step)
    callback = RLDKCallback(trackers=[JsonlTracker(partial)], **options)
    began, busy = time.monotonic(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        trainer = getattr(trainers, f"{run.kind}_trainer")(folder, callbacks=[callback], seed=run.seed, **settings)
        trainer.remove_callback(PrinterCallback)
        if apply is not None:
            apply(trainer, step)
        gc.freeze()  # PPO collects garbage twice a step, which takes longer than all else where much is imported
        try:
            trainer.train()
        except (RuntimeError, ValueError) as error:  # sampling from NaN ends a run; what was logged before counts
            print(f"  {path.stem} ended: {str(error)[:80]}", file=sys.stderr)
    partial.rename(path)
    seconds = f"{time.monotonic() - began:.0f} s, {time.process_time() - busy:.0f} s of the processor"
    print(f"{time.strftime('%H:%M')} {path.stem} {seconds}", file=sys.stderr, flush=True)
    return path


def begin(run: Planned) -> int:
    """The step at which the run's fault begins."""
    assert run.fault is not None
    return 1 if run.fault.from_start else run.fault.steps // 2


def quieten() -> None:
    """Leave the terminal to the benchmark."""
    import logging
    import warnings

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)

    import torch
    from transformers.utils import logging as transformers_logging

    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()
