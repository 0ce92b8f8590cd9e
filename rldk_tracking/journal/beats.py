"""What is seen of a training process from outside: the last event of each rank, and what the process does.

A rank writes the file `<stem>.beat-<rank>@<host>.json` next to the journal: one JSON object, padded to a fixed size and
written over itself at each event.

| field | meaning |
|---|---|
| time | of the event, s since the epoch |
| step | the trainer's global step |
| phase | that began with it, see `rldk_tracking.sources.wrapping` |
| events | how many there were |
| limit_s | for how long the phase may be silent; null: no limit |
| began | when the rank began to train, s since the epoch |
| pid, created | of its process; when that was created, s since the epoch |
| host, rank, ranks | where it is, and of how many |
| stacks | name of the file next to it where it writes its stacks |
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import psutil

CREATED_TOLERANCE_S = 2.0
"""Two readings of a process's creation time differ by up to this: the kernel's boot time is in whole seconds."""

RUNNING, STOPPED, GONE = "running", "stopped (SIGSTOP)", "gone"
UNKNOWN, ELSEWHERE = "in an unknown state", "on another host, so its state is not known"
_STATES = {
    psutil.STATUS_STOPPED: STOPPED,
    psutil.STATUS_TRACING_STOP: "stopped by a debugger",
    psutil.STATUS_DISK_SLEEP: "waiting for a disk",
    psutil.STATUS_ZOMBIE: GONE,
    psutil.STATUS_DEAD: GONE,
}


@dataclass(frozen=True, slots=True)
class Beat:
    """The last event of one rank. The fields are those of the file."""

    time: float
    step: int
    phase: str
    events: int
    limit_s: float | None
    began: float
    pid: int
    created: float
    host: str
    rank: int
    ranks: int
    stacks: str


def beat_of(text: str) -> Beat | None:
    """The beat that a file holds; None where it holds none, as when it is being written."""
    try:
        record = json.loads(text)
        beat = Beat(**{field.name: record[field.name] for field in fields(Beat)})
        numbers = (beat.time, beat.began, beat.created, *(() if beat.limit_s is None else (beat.limit_s,)))
        counts = (beat.step, beat.events, beat.pid, beat.rank, beat.ranks)
    except (ValueError, KeyError, TypeError):
        return None
    whole = all(type(count) is int for count in counts) and all(type(n) in (int, float) for n in numbers)
    return beat if whole and all(type(word) is str for word in (beat.phase, beat.host, beat.stacks)) else None


def read_beats(folder: Path, stem: str, rank: int | None = None) -> list[Beat]:
    """The beats of a journal's ranks, or of one rank. A folder that cannot be read has none."""
    return [beat for path in beat_files(folder, stem, rank) if (beat := _read(path)) is not None]


def beat_files(folder: Path, stem: str, rank: int | None = None) -> Iterator[Path]:
    """The files of a journal's ranks, or of one rank on whatever host."""
    start = f"{stem}.beat-" if rank is None else f"{stem}.beat-{rank}@"
    try:
        names = [entry.name for entry in os.scandir(folder)]
    except OSError:
        return
    yield from (folder / name for name in names if name.startswith(start) and name.endswith(".json"))


def _read(path: Path) -> Beat | None:
    try:
        return beat_of(path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None


def host_name() -> str:
    """This machine's name, as beats have it."""
    return socket.gethostname()


def process_state(pid: int, created: float, host: str | None = None) -> str:
    """What a process does, in words; "gone" also for one that has ended and was not waited for.

    Args:
        pid, created: its number, and when it started, in seconds since the epoch.
        host: where it is; None for this machine.
    """
    if host not in (None, host_name()):
        return ELSEWHERE
    try:
        process = psutil.Process(pid)
        if abs(process.create_time() - created) > CREATED_TOLERANCE_S:
            return GONE  # another process has its number now
        return _STATES.get(process.status(), RUNNING)
    except (
        psutil.NoSuchProcess,
        ValueError,
        OverflowError,
    ):  # the first also for a zombie
        return GONE
    except psutil.Error:
        return UNKNOWN


def is_alive(pid: int, created: float) -> bool:
    """Whether a process of this machine is there still."""
    return process_state(pid, created) != GONE


def can_write(folder: Path) -> bool:
    """Whether a beat could be written there: where the disk is full, silence says nothing."""
    try:
        return os.access(folder, os.W_OK) and (not hasattr(os, "statvfs") or os.statvfs(folder).f_bavail > 0)
    except OSError:
        return False
