"""`rldk-tracking sync`: send what a tracker did not take, and say of killed trainings that they crashed.

A training leaves `<output_dir>/rldk/undelivered-<tracker>.jsonl` behind when its tracker was down at the end, or when
it was killed. Each such file is sent to the run that it names and removed. What may have arrived already is sent again
only where the tracker stores it once (MLflow), or where its own log can be asked (W&B).
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.base import Tracker
from rldk_tracking.trackers.delivery import Delivery
from rldk_tracking.trackers.journal import Journal
from rldk_tracking.trackers.spool import Spool

FINAL = ("finished", "stopped", "crashed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument("folder", type=Path, help="a training's output folder, or one such file")
    parser.add_argument("--tracking-uri", help="where the MLflow server is now, if it has moved or needs a password")
    parser.add_argument("--run-id", help="the run to write to, for a training that was killed before it had one")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for each file (default: 120)")


def run(arguments: argparse.Namespace) -> int:
    """Send all files. Returns 1 where something stays behind."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    files = spools_in(arguments.folder)
    if not files:
        print(f"Nothing waits in {arguments.folder}.")
    sent = [_send(path, arguments) for path in files]
    for path in sorted(arguments.folder.rglob("rejected-*.jsonl")) if arguments.folder.is_dir() else ():
        print(f"{path}: refused by the tracker while training, and not sent.")
    return 0 if all(sent) else 1


def spools_in(folder: Path) -> list[Path]:
    """The files of calls that wait, in a folder and below it."""
    return sorted(folder.rglob("undelivered-*.jsonl")) if folder.is_dir() else [folder]


def _send(path: Path, arguments: argparse.Namespace) -> bool:
    try:
        spool = Spool.reopen(path)
    except BlockingIOError:
        print(f"{path}: the training that writes it is running.")
        return True
    except (OSError, ValueError) as error:
        print(f"{path}: {error}.")
        return False
    head = spool.head
    killed, step, drafts = True, head.step, 0
    for record in _waiting(spool):
        drafts += bool(record.get("draft"))
        killed = killed and record.get("status") not in FINAL
        step = max(step, int(record.get("step", 0)))
    tracker = _tracker(head.tracker, dict(head.to), arguments)
    if isinstance(tracker, str):
        spool.close()
        print(f"{path}: {tracker}.")
        return False
    doubtful = 0 if tracker.repeatable else _set_aside(spool, tracker)
    delivery = Delivery(tracker, spool=spool, backoff_limit=5.0)
    delivery.open(RunInfo())
    if killed:
        delivery.put("status", "crashed", {}, step)
    delivery.flush(arguments.timeout)
    delivery.close(min(arguments.timeout, 15.0))
    print(f"{path}: {delivery.delivered} calls sent to {head.tracker}, {delivery.kept} stay here.")
    if killed:
        print(f"  The training was killed after step {step}; its status is now crashed.")
    if drafts:
        print(
            f"  Steps whose rows were being computed when it ended: {drafts}. They have what was known of them by then."
        )
    if doubtful:
        print(f"  {doubtful} calls may have arrived before and are not repeated; see {_aside(spool)}.")
    return delivery.kept == 0


def _waiting(spool: Spool) -> Iterator[dict[str, Any]]:
    return (record for record, _ in spool.read(spool.first) if record["type"] != "address")


def _tracker(name: str, to: dict[str, str], arguments: argparse.Namespace) -> Tracker | str:
    """The tracker that a file is for, or why there is none."""
    try:
        if name == "mlflow":
            from rldk_tracking.trackers.mlflow import MLflowTracker

            run_id = to.get("run_id") or arguments.run_id
            if run_id is None:
                return "the training was killed before it had a run; name one with --run-id"
            return MLflowTracker(run_id=run_id, tracking_uri=arguments.tracking_uri or to.get("tracking_uri"))
        if name == "wandb":
            from rldk_tracking.trackers.wandb import WandbTracker

            run_id = to.get("id") or arguments.run_id
            if run_id is None:
                return "the training was killed before it had a run; name one with --run-id"
            return WandbTracker.resume(to | {"id": run_id})
        if name == "slack":
            from rldk_tracking.trackers.slack import SlackNotifier

            return SlackNotifier()
    except (ImportError, ValueError, OSError) as error:
        return str(error)
    return f"there is nothing to send to a tracker named {name!r}"


def _set_aside(spool: Spool, tracker: Tracker) -> int:
    """Leave out what was under way when the process ended, unless the tracker knows that it did not arrive."""
    head, first = spool.head, spool.first
    doubtful = []
    position = first
    for record, behind in spool.read(first):
        if behind - first > head.trying - head.taken:
            break
        position = behind
        if record["type"] != "address":
            doubtful.append(record)
    if not doubtful:
        return 0
    missing = tracker.missing(doubtful)
    aside = [{"tracker": head.tracker, "to": head.to, **record} for record in doubtful if record not in missing]
    journal = Journal(_aside(spool))
    spool.append(missing)
    journal.append(aside)
    journal.close()
    spool.taken(position)
    return len(doubtful) - len(missing)


def _aside(spool: Spool) -> Path:
    return spool.path.with_name(spool.path.name.replace("undelivered-", "uncertain-"))
