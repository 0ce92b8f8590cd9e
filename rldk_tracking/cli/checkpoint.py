"""`rldk-tracking checkpoint DIR`: is what was saved any good?

DIR is one checkpoint, or a folder of `checkpoint-<step>` folders, which are then compared one with the next.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rldk_tracking.checkpoint.findings import Scan
    from rldk_tracking.checkpoint.score import Best

UNREADABLE = 3
"""Exit code where there is no verdict."""
WORST_FIRST = {"critical": 2, "warning": 1, "unknown": 4, "healthy": 0}
"""Verdict to exit code; of several checkpoints the worst counts."""
UNREADABLE_BECAUSE = (OSError, ValueError, ImportError, MemoryError, RecursionError)
"""What stands between us and a folder: not there, damaged, a pickle without torch, or made to be too large."""
MEASURES = {"rldk/eval/reward": "reward of the evaluations", "rldk/reward/mean": "reward"}
"""Series by which a policy is better, and what they are called."""


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
    """Scan and print. Returns 0 healthy, 1 warning, 2 critical, 3 where a path that was named cannot be read, 4 where
    the weights were not read."""
    # Blocks are too small to be worth dividing among threads.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    if arguments.nice and hasattr(os, "nice"):
        os.nice(10)
    from rldk_tracking.checkpoint.score import verdict
    from rldk_tracking.messages.arguments import printable

    scans: list[Scan] = []
    try:
        for path in (arguments.previous, arguments.first, arguments.reference):
            if path is not None:
                _check_comparison(path)
        paths = checkpoints_in(arguments.path)
        for number, path in enumerate(paths, start=1):
            if len(paths) > 1:
                print(f"[{number}/{len(paths)}] {printable(path.name)}", file=sys.stderr)
            scans.append(_scan_one(path, arguments, scans))
    except UNREADABLE_BECAUSE as error:
        print(printable(str(error) or type(error).__name__), file=sys.stderr)
        return UNREADABLE
    _print(scans, arguments)
    verdicts = {verdict(found) for found in scans}
    return next(code for word, code in WORST_FIRST.items() if word in verdicts)


def checkpoints_in(path: Path) -> list[Path]:
    """The checkpoints below a folder by step, or the path itself where it is one."""
    from rldk_tracking.checkpoint.findings import step_of

    found = {step: child for child in path.glob("checkpoint-*") if (step := step_of(child)) is not None}
    return [found[step] for step in sorted(found)] or [path]


def _check_comparison(path: Path) -> None:
    """Raises FileNotFoundError or ValueError where there is nothing at a path that the user named to compare with."""
    from rldk_tracking.checkpoint.reader import Checkpoint

    with Checkpoint.open(path) as checkpoint:
        problems = [*checkpoint.damaged.values(), *(f"{name} is missing." for name in checkpoint.missing)]
    if problems:
        raise ValueError(f"{path} cannot be compared with: {problems[0]}")


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
    from rldk_tracking.checkpoint.report import metrics, text
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
    steps = {found.step: found for found in scans if found.step is not None}
    if len(steps) > 1:
        print(_together(arguments.path, steps))


def _together(folder: Path, scans: Mapping[int, Scan]) -> str:
    """One line on the checkpoints of a run."""
    from rldk_tracking.checkpoint.score import is_usable, parts, score, trend
    from rldk_tracking.messages.arguments import printable

    usable = {step for step, found in scans.items() if is_usable(found)}
    scores = {step: total for step, found in scans.items() if (total := score(parts(found))) is not None}
    found = trend(scores, usable, _best(folder, scans, usable))
    if found is None:
        return "no checkpoint could be judged"
    best = "best: not known (no reward, evaluation or best_metric of the run lies here)"
    if found.best is not None:
        best = f"best: step {found.best} by {found.by}"
    worse = "" if found.worse_since is None else f", worse since step {found.worse_since}"
    keep = ", ".join(map(str, found.keep)) or "none of them: each lacks something, holds NaN, or was not read"
    return printable(f"{best}; latest: step {found.latest}{worse}; keep {keep}")


def _best(folder: Path, scans: Mapping[int, Scan], usable: Collection[int]) -> Best | None:
    """The best policy: as the trainer says, by the reward in evaluations, or by that in training."""
    from rldk_tracking.checkpoint.files import DamagedFileError, read_json
    from rldk_tracking.checkpoint.score import best_by, best_of_trainer, between_saves
    from rldk_tracking.history.reading import read
    from rldk_tracking.history.run_history import UnreadableSourceError

    try:
        best = best_of_trainer(read_json(scans[max(scans)].path / "trainer_state.json"), usable)
    except (OSError, DamagedFileError):
        best = None
    if best is not None:
        return best
    try:
        entries = read(folder).entries
    except (OSError, UnreadableSourceError):
        return None
    for key, name in MEASURES.items():
        rows = [(entry.step, entry.row[key]) for entry in entries if key in entry.row]
        best = best_by(f"the mean {name} since the checkpoint before,", between_saves(rows, scans), usable)
        if best is not None:
            return best
    return None
