"""`rldk-tracking demo`: train a tiny model twice, healthy and with a fault, and show what the diagnostics say."""

from __future__ import annotations

import argparse
import logging
import os
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from rldk_tracking.demo.faults import FAULTS, Fault
from rldk_tracking.trackers.backend import DemoStore
from rldk_tracking.trackers.registry import backends

if TYPE_CHECKING:
    from rldk_tracking.health.alert import Alert

DEFAULT_FAULT = "lr-jump"
STEPS = 60
FEWEST_STEPS = 30
"""Fewer leave the rules no time to warm up before the fault."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    described = "; ".join(f"{fault.name}: {fault.summary}" for fault in FAULTS.values())
    parser.add_argument(
        "--fault",
        choices=(*FAULTS, "none"),
        default=DEFAULT_FAULT,
        metavar="NAME",
        help=f"what goes wrong in the second run (default {DEFAULT_FAULT}). {described}; none: no second run",
    )
    parser.add_argument(
        "--tracker", choices=tuple(stores()), default="mlflow", help="where the runs go (default mlflow)"
    )
    parser.add_argument("--steps", type=int, default=STEPS, help=f"optimiser steps of each run (default {STEPS})")
    parser.add_argument("--output", type=Path, default=Path(), metavar="DIR", help="default: the working folder")


def stores() -> dict[str, type[DemoStore]]:
    """The places for runs that backends have, by their names."""
    return {name: backend.demo for name, backend in backends().items() if backend.demo is not None}


def run(arguments: argparse.Namespace) -> int:
    """Train and report. Returns 0 where every run ended as expected, 1 where one did not."""
    if arguments.steps < FEWEST_STEPS:
        raise SystemExit(f"--steps must be at least {FEWEST_STEPS}: the rules need some steps to learn what is normal.")
    began = time.monotonic()
    quieten()
    folder = arguments.output.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    store = stores()[arguments.tracker](folder)
    fault_step = arguments.steps // 2
    try:
        store.prepare()
    except ImportError as error:
        raise SystemExit(str(error)) from error

    print("GRPO on the CPU with a two-layer model, made on the spot. Its task: repeat the digit of the prompt.")
    as_expected = [healthy_as_expected(train("healthy", None, arguments.steps, fault_step, store))]
    if arguments.fault != "none":
        fault = FAULTS[arguments.fault]
        when = "from the start" if fault.from_start else f"from step {fault_step} on"
        print(f"\nThe same again, but {when} {fault.summary}.")
        alerts = train(fault.name, fault, arguments.steps, fault_step, store)
        as_expected.append(fault_as_expected(fault, alerts, 1 if fault.from_start else fault_step))
    print("\n" + "\n".join(store.how_to_open()))
    print(f"\nDone in {time.monotonic() - began:.0f} s.")
    return 0 if all(as_expected) else 1


def train(name: str, fault: Fault | None, steps: int, fault_step: int, store: DemoStore) -> list[Alert]:
    """One run; returns its alerts."""
    from transformers import PrinterCallback

    from rldk_tracking import RLDKCallback, TrainingStopped
    from rldk_tracking.demo.progress import Progress
    from rldk_tracking.demo.trainers import grpo_trainer

    diagnostics = RLDKCallback(trackers=store.trackers(name))
    progress = Progress(name, diagnostics)
    trainer = grpo_trainer(
        store.folder / "rldk_demo" / name,
        report_to=store.report_to,
        max_steps=steps,
        callbacks=[diagnostics, progress],
        run_name=name,
        **(fault.settings(fault_step) if fault is not None else {}),
    )
    trainer.remove_callback(PrinterCallback)
    if fault is not None:
        fault.apply(trainer, fault_step)
    try:
        trainer.train()
    except TrainingStopped as stopped:
        print(f"  {stopped}")
    finally:
        progress.close()
    store.finished(name)
    return diagnostics.alerts


def healthy_as_expected(alerts: list[Alert]) -> bool:
    """Whether there was no warning; says so."""
    warned = firing(alerts)
    if not warned:
        print("  No warning, as it should be.")
        return True
    print(f"  A healthy run should end without a warning, but here fired: {', '.join(sorted(warned))}.")
    return False


def fault_as_expected(fault: Fault, alerts: list[Alert], began: int) -> bool:
    """Whether one of the right rules fired, and not before the fault; says so."""
    warned = firing(alerts)
    right = {rule: step for rule, step in warned.items() if rule in fault.rules and step >= began}
    if not right:
        seen = ", ".join(sorted(warned)) or "nothing"
        print(f"  One of {', '.join(fault.rules)} should have fired, but {seen} did.")
        return False
    rule, step = min(right.items(), key=lambda item: item[1])
    late = step - began
    when = "in the very step of the fault" if late == 0 else f"{late} step{'s' if late > 1 else ''} after the fault"
    print(f"  {rule} fired {when}, as it should.")
    return True


def firing(alerts: list[Alert]) -> dict[str, int]:
    """Rule to the step of its first alert above info."""
    first: dict[str, int] = {}
    for alert in alerts:
        if alert.state == "firing" and alert.severity != "info":
            first.setdefault(alert.rule, alert.step)
    return first


def quieten() -> None:
    """Leave the terminal to the demo: no hub, no telemetry, no log lines and bars of the libraries below."""
    for name, value in {
        "HF_HUB_OFFLINE": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "WANDB_SILENT": "true",
        "RLDK_SILENT": "true",  # alerts are shown by the progress bar, addresses at the end, for both runs
        "TOKENIZERS_PARALLELISM": "false",
        "TRL_EXPERIMENTAL_SILENCE": "1",
    }.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning)
    for name in ("alembic", "mlflow", "mlflow.store.db.utils", "mlflow.tracking.fluent"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("trl").setLevel(logging.ERROR)

    import torch
    from transformers.utils import logging as transformers_logging

    torch.set_num_threads(1)  # the model is so small that threads would only wait for one another
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
