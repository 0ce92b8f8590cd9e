"""`rldk-tracking sync`: send what the courier could not, and say of killed trainings that they crashed.

A training writes everything into a journal, `run.jsonl` in its output folder, and a process of its own brings that to
MLflow, Slack and webhooks. Where that process was killed too, or the server was away for too long, this command goes on
where it was. What may have arrived already is sent again only where the tracker stores it once (MLflow); W&B's own log
is compared with the journal.

A journal names the server that it was for. It is sent there only where that is the server of your own configuration
(`MLFLOW_TRACKING_URI`), or where you say so: a file must not decide who gets your credentials.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from rldk_tracking.courier import delivering
from rldk_tracking.journal.catch_up import Outcome, busy, catch_up, comparable, waits
from rldk_tracking.journal.contents import Contents
from rldk_tracking.journal.offset import Target
from rldk_tracking.messages.arguments import printable
from rldk_tracking.trackers.registry import ask, backends

SHOWN = 5
"""Lines of a journal that are passed over, and said one by one."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument("folder", type=Path, help="a training's output folder, or one journal")
    for backend in backends().values():
        backend.add_options(parser)
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for each destination (default: 120)")


def run(arguments: argparse.Namespace) -> int:
    """Send all journals. Returns 1 where something stays behind."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    folder: Path = arguments.folder
    if not folder.is_dir() and not folder.is_file():
        why = "not a regular file" if folder.exists() else "no such file or folder"
        sys.stderr.write(f"{printable(folder)}: {why}.\n")
        return 1
    files = journals_below(arguments.folder)
    with delivering():
        done = [_sync(path, arguments) for path in files]
    if not any(said for _, said in done):
        _print(f"Nothing waits in {arguments.folder.resolve()}")
    return 0 if all(good for good, _ in done) else 1


def journals_below(folder: Path) -> list[Path]:
    """The journals in a folder and below it; the path itself, where it is a file."""
    if not folder.is_dir():
        return [folder]
    return sorted(path for path in folder.rglob("run*.jsonl") if path.is_file())  # a pipe would be waited for


def _print(text: str) -> None:
    """One line, in which names from files command nothing."""
    print(printable(text))


def _sync(path: Path, arguments: argparse.Namespace) -> tuple[bool, bool]:
    """Send one journal. Returns whether nothing stays, and whether something was said."""
    try:
        path.stat()
        contents = Contents.of(path)
        reason = busy(path, contents)
    except OSError as error:
        _print(f"{path}: {error.strerror or error}.")
        return False, True
    if reason is not None:
        _print(f"{path}: {reason}.")
        return True, True
    for position, why in contents.skipped[:SHOWN]:
        _print(f"{path}: the line at byte {position} is passed over: {why}.")
    if len(contents.skipped) > SHOWN:
        _print(f"{path}: {len(contents.skipped) - SHOWN} more lines are passed over.")
    for name, run in ask(lambda backend: backend.named_run(arguments) or {}).items():
        if run and contents.begin and name not in contents.targets:
            contents.targets[name] = Target(name, name, run)
    if not contents.targets and not comparable(contents):
        if not contents.begin:
            return True, bool(contents.skipped)  # a file of a JsonlTracker, or of somebody else
        _print(f"{path}: the training had no run yet that this could be sent to; name one with --run-id.")
        return contents.has_ended, True
    if not waits(path, contents):
        return True, bool(contents.skipped)
    outcomes = catch_up(path, contents, lambda target: _approved(target, arguments), arguments.timeout)
    if outcomes is None:
        _print(f"{path}: its courier is at work; leave it to that.")
        return True, True
    good = True
    for outcome in outcomes:
        good = _say(path, outcome, contents) and good
    return good, True


def _say(path: Path, outcome: Outcome, contents: Contents) -> bool:
    left = "" if outcome.left is None else f", {outcome.left} records stay here"
    _print(f"{path}: {outcome.sent} calls sent to {outcome.id}{left}.")
    if outcome.problem is not None:
        _print(f"  {outcome.problem}.")
    if outcome.rejected:
        _print(f"  Refused by {outcome.id}, and not sent: {outcome.rejected} parts. A later sync tries them again.")
    if outcome.uncertain:
        _print(f"  {outcome.uncertain} calls may have arrived before, and are not repeated.")
    if outcome.said_crashed:
        last = max(0, contents.last_step)
        _print(f"  The training ended without a word after step {last}; its status is now crashed.")
    return outcome.problem is None and not outcome.left and not outcome.rejected


def _approved(target: Target, arguments: argparse.Namespace) -> Target:
    """The destination with this user's own address and credentials.

    Raises:
        PermissionError: it is a server that the journal alone names.
    """
    backend = backends().get(target.tracker)
    if backend is None:
        return target
    to, secrets = backend.approved(target.to, arguments)
    return Target(target.id, target.tracker, to, secrets)
