"""What a training process left behind of how it goes, as its watchdog reads it: beats, stacks, and the process itself.

A rank writes the file `<stem>.beat-<rank>@<host>.json` beside the journal: one JSON object, padded to a fixed size and
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
| stacks | name of the file beside it where it writes its stacks |
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from types import FrameType

import psutil

STACKS_BYTES = 262_144
"""So much of the end of a file of stacks is read."""
STACKS_FILE_BYTES = 1_000_000
"""A file that has grown beyond this begins anew."""
FRAMES_PER_THREAD = 200
THREADS = 200
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


def process_state(pid: int, created: float, host: str) -> str:
    """What a process does, in words; "gone" also for one that has ended and was not waited for."""
    if host != host_name():
        return ELSEWHERE
    try:
        process = psutil.Process(pid)
        if abs(process.create_time() - created) > CREATED_TOLERANCE_S:
            return GONE  # another process has its number now
        return _STATES.get(process.status(), RUNNING)
    except psutil.NoSuchProcess:  # a zombie's error is one of these
        return GONE
    except psutil.Error:
        return UNKNOWN


def can_write(folder: Path) -> bool:
    """Whether a beat could be written there: where the disk is full, silence says nothing."""
    try:
        return os.access(folder, os.W_OK) and (not hasattr(os, "statvfs") or os.statvfs(folder).f_bavail > 0)
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class PlannedDump:
    """When the stacks are to be written, unless something happens until then.

    Attributes:
        due: when, on the clock of `time.monotonic`.
        since: when the silence began, on that clock.
        events: count of the event that it began with.
        what: the phase and step, for the reader.
    """

    due: float
    since: float
    events: int
    what: str


def append_stacks(path: Path, text: str) -> None:
    """Add to the file in one go. Raises OSError where the disk does."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        if os.fstat(descriptor).st_size > STACKS_FILE_BYTES:
            os.ftruncate(descriptor, 0)
        os.write(descriptor, text.encode("utf-8", errors="replace"))
    finally:
        os.close(descriptor)


def stacks_of(dump: PlannedDump) -> str:
    """The stacks of all threads but the calling one, the main thread first, innermost frame first."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    main, own = threading.main_thread().ident, threading.get_ident()
    frames = sys._current_frames()
    others = sorted((ident for ident in frames if ident != own), key=lambda ident: ident != main)
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    silent = f"silent for {time.monotonic() - dump.since:.0f} s at {now}"
    lines = [f"=== event {dump.events} of process {os.getpid()}: {dump.what}, {silent}"]
    for ident in others[:THREADS]:
        name = "Main thread" if ident == main else f"Thread {names.get(ident, ident)}"
        lines += ["", f"{name} (innermost frame first):", *_frames_of(frames[ident])]
    return "\n".join(lines) + "\n\n"


def _frames_of(frame: FrameType | None) -> Iterator[str]:
    for _ in range(FRAMES_PER_THREAD):
        if frame is None:
            return
        yield f'  File "{frame.f_code.co_filename}", line {frame.f_lineno} in {frame.f_code.co_name}'
        frame = frame.f_back
    if frame is not None:
        yield "  ..."


def read_stacks(folder: Path, beat: Beat) -> str | None:
    """Where a rank's threads stood in the silence after a beat; None where it did not write that down.

    Args:
        folder: of the beat's file; the file of stacks lies there too, see `rldk_tracking.journal.heartbeat`.
        beat: the beat.
    """
    try:
        with open(folder / Path(beat.stacks).name, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - STACKS_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return None
    parts = re.split(r"^=== (event \d+ of process \d+): ", text, flags=re.MULTILINE)
    wanted = f"event {beat.events} of process {beat.pid}"
    found = [part for header, part in zip(parts[1::2], parts[2::2], strict=True) if header == wanted]
    return found[-1] if found else None


def main_thread(stacks: str, characters: int) -> str:
    """The innermost frames of the main thread, a line each, as many as fit whole."""
    begin = stacks.find("Main thread (")
    if begin < 0:
        return ""
    kept: list[str] = []
    for line in stacks[begin:].split("\n\n")[0].splitlines()[1:]:
        if sum(len(known) + 1 for known in kept) + len(line) > characters:
            break
        kept.append(line.strip())
    return "\n".join(kept)
