"""Sends what a journal's courier could not, in the foreground, when the training is over."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rldk_tracking.health.alert import Alert
from rldk_tracking.journal.attempts import Deadline
from rldk_tracking.journal.beats import is_alive
from rldk_tracking.journal.contents import QUIET_S, Contents
from rldk_tracking.journal.courier import append_alerts
from rldk_tracking.journal.offset import Offset, Target, load_offset, offset_path
from rldk_tracking.journal.reader import FileLines, read_all
from rldk_tracking.journal.sender import Sender
from rldk_tracking.journal.watchdog import Watchdog
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.backend import Backend
from rldk_tracking.trackers.base import RejectedError, UnavailableError
from rldk_tracking.trackers.channel import DIGEST
from rldk_tracking.trackers.lines import LineFile, try_lock
from rldk_tracking.trackers.records import ENDED, decode, encode
from rldk_tracking.trackers.registry import able, backends, resumed, tracker_class

logger = logging.getLogger(__name__)


@dataclass
class Outcome:
    """How it went with one destination.

    Attributes:
        id: of the destination, "" for the journal as a whole.
        sent: calls.
        left: records that wait still; None where that is not known.
        rejected: ranges of records, or calls, that are refused.
        uncertain: calls that may have arrived before, and are not repeated.
        problem: why nothing could be sent, in words; else None.
        is_closed: whether everything was brought to its end.
        said_crashed: whether the destination took from here that the training crashed.
    """

    id: str
    sent: int = 0
    left: int | None = 0
    rejected: int = 0
    uncertain: int = 0
    problem: str | None = None
    is_closed: bool = False
    said_crashed: bool = False


Approve = Callable[[Target], Target]
"""The destination with what this user knows of it. Raises PermissionError where nothing is to be sent there."""


def busy(journal: Path, contents: Contents) -> str | None:
    """Why a journal is to be left alone now, in words; None where it is not."""
    if not contents.is_elsewhere and is_alive(contents.pid, contents.created):
        return "the training that writes it is running"
    try:
        with journal.open("rb+") as file:
            if not try_lock(file.fileno()):
                return "the training that writes it is running"
        if contents.is_elsewhere and not contents.has_ended and time.time() - journal.stat().st_mtime < QUIET_S:
            return f"{contents.begin.get('host')} was writing it within the last hour; sync it there"
    except OSError:
        return None
    return None


def catch_up(journal: Path, contents: Contents, approve: Approve, timeout_s: float) -> Iterator[Outcome] | None:
    """Send what waits. The caller has found it not to be `busy`.

    Args:
        journal: the file.
        contents: of it.
        approve: see `Approve`.
        timeout_s: for each destination.

    Returns:
        One outcome a destination, as they come; None where the journal's courier is at work.
    """
    lock = LineFile(journal.with_name(f"{journal.stem}.courier.lock"))
    return _outcomes(journal, contents, approve, timeout_s, lock) if lock.try_lock() else None


def _outcomes(
    journal: Path, contents: Contents, approve: Approve, timeout_s: float, lock: LineFile
) -> Iterator[Outcome]:
    try:
        if contents.pid > 0:
            append_alerts(journal, crash_of(journal, contents))
        for target in contents.targets.values():
            yield _send(journal, target, approve, timeout_s)
        for target in [] if contents.has_ended else comparable(contents):
            yield _compare(journal, target, max(0, contents.last_step))
    finally:
        lock.close()


def comparable(contents: Contents) -> list[Target]:
    """Where the training wrote to itself, and it can be known what did not arrive when it was killed."""
    known = able(Backend.missing)
    return [target for target in contents.in_training.values() if target.tracker in known]


def waits(journal: Path, contents: Contents) -> bool:
    """Whether something is to be sent, as far as the offsets say."""
    ids = [*contents.targets, *([] if contents.has_ended else [target.id for target in comparable(contents)])]
    return any(_waits(offset_path(journal, name), contents.position) for name in ids)


def _waits(path: Path, end: int) -> bool:
    try:
        offset = Offset.load(path)
    except (OSError, ValueError):
        return True
    return offset.position < end or not offset.closed or bool(offset.rejected or offset.refused_calls)


def _send(journal: Path, target: Target, approve: Approve, timeout_s: float) -> Outcome:
    lines = FileLines(journal)
    outcome, offset = Outcome(target.id), Offset(offset_path(journal, target.id))
    try:
        offset = load_offset(journal, target, lines, logger)
        if not _waits(offset.path, lines.size()):
            return Outcome(target.id, is_closed=True)
        if not offset.refused_calls and not _is_asked_for(target, lines, offset.position):
            return Outcome(target.id, is_closed=True)
        approved = approve(Target(target.id, target.tracker, {**target.to, **offset.to}))
        offset.to = dict(approved.to)
        deadline = Deadline()
        deadline.is_gone = deadline.is_end_judged = True
        deadline.limit(timeout_s)
        sender = Sender(target.id, approved.connect, lines, offset, deadline, logger)
        sender.repeats_rejected = True
        uncertain = offset.uncertain
        sender.run()
    except (ValueError, ImportError, OSError) as error:
        outcome.problem, outcome.left = str(error), _left(lines, offset.position)
        return outcome
    finally:
        lines.close()
    outcome.sent, outcome.is_closed, outcome.said_crashed = sender.delivered, offset.closed, sender.said_crashed
    outcome.rejected = len(offset.rejected) + len(offset.refused_calls)
    outcome.uncertain = offset.uncertain - uncertain
    outcome.left = _left(lines, offset.position)
    outcome.problem = offset.fault if sender.tracker is None else None
    return outcome


def _left(lines: FileLines, position: int) -> int | None:
    """Records behind a position; None where the journal cannot be read."""
    try:
        return sum(1 for entry in read_all(lines, position) if entry.calls)
    except OSError:
        return None
    finally:
        lines.close()


def _is_asked_for(target: Target, lines: FileLines, position: int) -> bool:
    """Whether there is anything for it; a channel for messages may have no address here, and need none."""
    kind = tracker_class(target.tracker)
    if kind is None or kind.takes_rows or DIGEST in target.to.get("messages", ""):
        return True
    calls = (call for entry in read_all(lines, position) for call in entry.calls)
    return any(method == "alert" or (method == "status" and args[0] in ENDED) for method, args in calls)


def crash_of(journal: Path, contents: Contents) -> list[Alert]:
    """What is to be said of a training that is gone, by the rule that it ran under, and is not in its journal yet."""
    dog = Watchdog(journal, contents.pid, contents.created, contents.rules, contents.firing.values())
    looks = [dog.look(time.monotonic(), contents.last_step, contents.end) for _ in range(2)]
    return [alert for alerts in looks for alert in alerts]  # it believes what it sees twice


def _compare(journal: Path, target: Target, last_step: int) -> Outcome:
    """Send a backend what did not arrive there of a killed training."""
    lines = FileLines(journal)
    outcome, offset = Outcome(target.id, left=None), Offset(offset_path(journal, target.id))
    if not _waits(offset.path, lines.size()):
        return Outcome(target.id, is_closed=True)
    try:
        tracker = resumed(target.tracker, target.to, {})
        tracker.open(RunInfo())
    except (ValueError, ImportError, OSError) as error:
        outcome.problem = str(error)
        return outcome
    records = [encode(method, args, entry.record["time"]) for entry in read_all(lines) for method, args in entry.calls]
    lines.close()
    try:
        missing = backends()[target.tracker].missing(target.to, records)
        outcome.left = len(missing)
        for record in missing:
            method, args = decode(record)
            getattr(tracker, method)(*args)
            outcome.sent, outcome.left = outcome.sent + 1, outcome.left - 1
        tracker.status("crashed", {}, last_step)
        tracker.close()
    except (RejectedError, UnavailableError, OSError) as error:
        outcome.problem = str(error)
        return outcome
    offset.closed, offset.position = True, lines.size()
    outcome.is_closed = outcome.said_crashed = True
    offset.save()
    return outcome
