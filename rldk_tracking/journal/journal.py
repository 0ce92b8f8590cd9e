"""The append-only file that a run is: one JSON line a step, written by rank 0 on the training thread.

`run.jsonl` in the run's folder, `run-2.jsonl` and so on for further trainings there. A training that goes on from a
checkpoint appends to the journal of the earlier one, where that went to the same destinations.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import time
import weakref
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import psutil

from rldk_tracking.health.alert import Alert
from rldk_tracking.journal.contents import Earlier
from rldk_tracking.journal.reader import KEPT_LINES, MemoryLines
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.base import Tracker
from rldk_tracking.trackers.lines import LineFile, end_record, line_of, row_record
from rldk_tracking.trackers.records import VERSION, encode

logger = logging.getLogger(__name__)

_NAME = re.compile(r"run(?:-(\d+))?\.jsonl")
_REOPEN_S = 10.0
"""Seconds between two attempts to make a folder anew that was deleted, or to write to a disk that is full."""


class Journal:
    """One run's file, made by `open`. Nothing here raises: what cannot be written is counted, and said once.

    Attributes:
        path: the file.
        earlier: what the file, and those before it, hold of the trainings that this one goes on from.
        memory: the records since the file took no more, at most 1,000, which a thread of the training delivers; None as
            long as it takes them.
        deleted: records that were in a file which somebody deleted.
    """

    def __init__(self, file: LineFile, earlier: Earlier, problem: OSError | None = None) -> None:
        self.path = file.path
        self.earlier = earlier
        self.memory: MemoryLines | None = None
        self.deleted = self._written = self._lost = 0
        self._unwritten: deque[bytes] = deque(maxlen=KEPT_LINES)
        self._file = file
        self._pid = os.getpid()
        self._head: list[dict[str, Any]] = []
        self._said = self._is_gone = False
        self._reopen_at = 0.0
        if problem is not None:
            self._go_on_in_memory(problem)
        _OPEN.add(self)

    @classmethod
    def open(
        cls, folder: Path, destinations: Iterable[tuple[str, Mapping[str, str]]] = (), resumed_at: int | None = None
    ) -> Journal:
        """The journal of a training that begins.

        Args:
            folder: where it lies; made where it is missing.
            destinations: name and address of each tracker of the run.
            resumed_at: the checkpoint's step, where the training goes on from one.
        """
        wanted = _comparable(destinations)
        earlier = Earlier()
        if resumed_at is not None:
            try:
                for path in reversed(journals_in(folder)):
                    found = Earlier.read(path, resumed_at)
                    if _comparable(found.destinations) == wanted:
                        file = LineFile(path)
                        file.open()
                        if file.try_lock():
                            return cls(file, found)
                        file.close()
                earlier = Earlier.chain(journals_in(folder), resumed_at)
            except OSError as error:
                logger.info("Earlier journals in %s cannot be read (%s).", folder, type(error).__name__)
        try:
            return cls(_new_file(folder), earlier)
        except OSError as error:
            return cls(LineFile(folder / "run.jsonl"), earlier, error)

    @property
    def lost(self) -> int:
        """Records that are not in the file."""
        return self._lost + len(self._unwritten)

    @property
    def size(self) -> int:
        """Bytes so far: the position behind the last record."""
        if self.memory is not None:
            return self.memory.size
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    def begin(self, run: RunInfo, ranks: int, rules: Mapping[str, Mapping[str, Any]], resumed_at: int | None) -> None:
        """Say what begins.

        Args:
            run: the run.
            ranks: how many processes train.
            rules: parameters of the rules of the family `run` that are on, by id.
            resumed_at: as for `open`.
        """
        process = psutil.Process()
        record = {
            "type": "begin",
            "time": time.time(),
            "version": VERSION,
            "run": {
                "name": run.name,
                "trainer": run.trainer,
                "config": dict(run.config),
                "output_dir": run.output_dir,
            },
            "pid": process.pid,
            "created": process.create_time(),
            "host": socket.gethostname(),
            "ranks": ranks,
            "resumed_at": resumed_at,
            "rules": {name: dict(parameters) for name, parameters in rules.items()},
        }
        self._head = [record]
        self.append(record)

    def destination(self, name: str, tracker: Tracker) -> None:
        """Say where the run goes, once a tracker has joined its run; under the id that its offset has."""
        to = dict(tracker.address())
        record = {
            "type": "destination",
            "time": time.time(),
            "id": name,
            "tracker": tracker.name,
            "to": to,
            "in_process": tracker.in_process,
        }
        self._head.append(record)
        if (tracker.name, to) not in self.earlier.destinations:
            self.append(record)

    def row(self, step: int, metrics: Mapping[str, float], alerts: Iterable[Alert] = ()) -> None:
        """Append a step: its row and its alerts. A row that an earlier training has written is left out."""
        alerts, now = list(alerts), time.time()
        if step > self.earlier.last_step:
            self.append(row_record(step, metrics, alerts, now))
        else:
            for alert in alerts:
                self.append(encode("alert", (alert,), now))

    def call(self, method: str, *args: Any) -> None:
        """Append a call of a tracker's: a table, figure, heat-map, checkpoint, status or alert."""
        self.append(encode(method, args, time.time()))

    def end(self, status: str, step: int, exception: str | None = None) -> None:
        """Say how it ended: "finished", "stopped" or "crashed", with the exception's last lines. The last record."""
        self.append(end_record(status, step, exception, time.time()))

    def append(self, record: Mapping[str, Any]) -> None:
        """Append one record, in the hands of the operating system before this returns. A forked child writes none."""
        if os.getpid() != self._pid:
            return
        try:
            data = line_of(record)
            if self.memory is None:
                if self._is_gone or self._file.is_gone:
                    self._make_anew()
                self._file.append(data)
                self._written += 1
                return
        except (TypeError, ValueError, RecursionError, OSError) as error:
            if not isinstance(error, OSError) or self._is_gone:
                self._lost += 1
                self._say(error)
                return
            self._go_on_in_memory(error)
        self._keep(data)

    def close(self) -> None:
        """Close the file, and let another training go on with it."""
        self.write_what_is_kept()
        if os.getpid() == self._pid and self.lost:
            logger.warning("%d records could not be written to %s.", self.lost, self.path)
        self._file.close()
        _OPEN.discard(self)

    def _go_on_in_memory(self, error: OSError) -> None:
        """The disk is full, or not to be written: what is kept until then may go into the file later."""
        self._say(error)
        self.memory = MemoryLines(KEPT_LINES, self.size)
        self._reopen_at = time.monotonic() + _REOPEN_S

    def _keep(self, data: bytes) -> None:
        if self.memory is not None:
            self.memory.append(data)
        self._lost += len(self._unwritten) == self._unwritten.maxlen
        self._unwritten.append(data)
        if time.monotonic() >= self._reopen_at:
            self.write_what_is_kept()

    def write_what_is_kept(self) -> None:
        """Try once more to bring into the file what is in memory alone."""
        if not self._unwritten or os.getpid() != self._pid:
            return
        self._reopen_at = time.monotonic() + _REOPEN_S
        try:
            if self._file.is_gone:  # what goes there is lost
                self._file.close()
            self._file.append(b"".join(self._unwritten))
            self._unwritten.clear()
        except OSError as error:
            logger.debug("%s cannot be written yet: %s", self.path, error)

    def _make_anew(self) -> None:
        """Somebody deleted the folder: begin the file once more, in the place where it was."""
        now = time.monotonic()
        self._is_gone, self.deleted, self._written = True, self.deleted + self._written, 0
        if now < self._reopen_at:
            raise FileNotFoundError("the folder was deleted")
        self._reopen_at = now + _REOPEN_S
        self._file.close()
        self._file.try_lock()
        self._file.append(b"".join(map(line_of, self._head)))
        self._is_gone = False

    def _say(self, error: Exception) -> None:
        if not self._said:
            self._said = True
            cause = getattr(error, "strerror", None) or str(error) or type(error).__name__
            logger.warning(
                "The journal %s cannot be written (%s). Training goes on; what is missing there is counted.",
                self.path,
                cause,
            )


def journal_stem(number: int) -> str:
    """Name of a folder's journal without its end: "run", "run-2"."""
    return "run" if number == 1 else f"run-{number}"


def journal_number(path: Path) -> int:
    """The number of a journal in its folder."""
    match = _NAME.fullmatch(path.name)
    return int(match[1] or 1) if match else 1


def _comparable(destinations: Iterable[tuple[str, Mapping[str, str]]]) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
    """Destinations without what is each process's own: the place of W&B's log."""
    return {(name, tuple(sorted((k, v) for k, v in to.items() if k != "log"))) for name, to in destinations}


def journals_in(folder: Path) -> list[Path]:
    """The journals of a folder, the oldest first."""
    found = [(int(match[1] or 1), path) for path in folder.glob("run*.jsonl") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def _new_file(folder: Path) -> LineFile:
    folder.mkdir(parents=True, exist_ok=True)
    number = 1 + max(map(journal_number, journals_in(folder)), default=0)
    while True:
        path = folder / f"{journal_stem(number)}.jsonl"
        number += 1
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:  # another training was quicker
            continue
        file = LineFile(path)
        file.try_lock()
        return file


_OPEN: weakref.WeakSet[Journal] = weakref.WeakSet()


def _leave_to_the_parent() -> None:
    """In a forked child: the file and its lock are the parent's."""
    for journal in list(_OPEN):
        journal._file.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_the_parent)
