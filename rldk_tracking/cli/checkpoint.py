"""`rldk-tracking checkpoint DIR`: is what was saved any good?

DIR is one checkpoint, or a folder of `checkpoint-<step>` folders, which are then compared one with the next.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rldk_tracking.checkpoint.findings import Scan

HEALTHY, WARNING, CRITICAL, UNREADABLE = range(4)
"""Exit codes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument("path", type=Path, help="a checkpoint folder, a file of weights, or a folder of checkpoints")
    parser.add_argument("--against", "--previous", dest="previous", type=Path, help="a checkpoint to compare with")
    parser.add_argument("--first", type=Path, help="the run's first checkpoint")
    parser.add_argument("--reference", type=Path, help="the model that training began from, or the KL reference")
    parser.add_argument(
        "--level",
        choices=("light", "standard", "full"),
        default="standard",
        help="files alone; every tensor once; spectral norms too (default: standard)",
    )
    parser.add_argument("--layers", type=int, default=5, help="how many layers to print, the worst first")
    parser.add_argument("--format", choices=("text", "json"), default="text")
    parser.add_argument("--vectors", type=Path, help="keep singular vectors in this file, to start the next scan from")
    parser.add_argument("--nice", action="store_true", help="run at a lower priority")


def run(arguments: argparse.Namespace) -> int:
    """Scan and print. Returns 0 healthy, 1 warning, 2 critical, 3 nothing to read."""
    # Blocks are too small to be worth dividing among threads.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    if arguments.nice and hasattr(os, "nice"):
        os.nice(10)
    from rldk_tracking.checkpoint.score import verdict

    paths = checkpoints_in(arguments.path)
    scans: list[Scan] = []
    for number, path in enumerate(paths, start=1):
        if len(paths) > 1:
            print(f"[{number}/{len(paths)}] {path.name}", file=sys.stderr)
        try:
            scans.append(_scan_one(path, arguments, scans))
        except FileNotFoundError as error:
            print(error, file=sys.stderr)
            return UNREADABLE
    _print(scans, arguments)
    return max({"healthy": HEALTHY, "warning": WARNING, "critical": CRITICAL}[verdict(found)] for found in scans)


def checkpoints_in(path: Path) -> list[Path]:
    """The checkpoints below a folder by step, or the path itself where it is one."""
    from rldk_tracking.checkpoint.findings import step_of

    found = {step: child for child in path.glob("checkpoint-*") if (step := step_of(child)) is not None}
    return [found[step] for step in sorted(found)] or [path]


def _scan_one(path: Path, arguments: argparse.Namespace, before: Sequence[Scan]) -> Scan:
    from rldk_tracking.checkpoint.scan import load_vectors, save_vectors, scan

    against = {
        "previous": arguments.previous or (before[-1].path if before else None),
        "first": arguments.first or (before[0].path if before else None),
        "reference": arguments.reference,
    }
    found = scan(
        path,
        {label: other for label, other in against.items() if other is not None},
        level=arguments.level,
        vectors=load_vectors(arguments.vectors),
    )
    if arguments.vectors is not None:
        save_vectors(arguments.vectors, found.vectors)
    return found


def _print(scans: Sequence[Scan], arguments: argparse.Namespace) -> None:
    from rldk_tracking.checkpoint.report import metrics, text, trend
    from rldk_tracking.checkpoint.score import verdict

    if arguments.format == "json":
        records: list[dict[str, Any]] = [
            {"verdict": verdict(found), "metrics": metrics(found), **found.to_dict()} for found in scans
        ]
        print(json.dumps(records[0] if len(records) == 1 else records))
        return
    for found in scans:
        print(text(found, limit=arguments.layers))
        print(f"  verdict: {verdict(found)}")
    scores = {found.step: metrics(found).get("rldk/checkpoint/score") for found in scans}
    told = trend({step: value for step, value in scores.items() if step is not None and value is not None})
    if told is not None and len(scans) > 1:
        worse = "" if told.worse_since is None else f", worse since step {told.worse_since}"
        print(f"best: step {told.best}, latest: step {told.latest}{worse}; keep {', '.join(map(str, told.keep))}")
