"""Where every thread of a training stands, written down shortly before it counts as hung, and read by its watchdog."""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from rldk_tracking.journal.beats import Beat

logger = logging.getLogger(__name__)

STACKS_BYTES = 262_144
"""So much of the end of a file of stacks is read."""
STACKS_FILE_BYTES = 1_000_000
"""A file that has grown beyond this begins anew."""
FRAMES_PER_THREAD = 200
THREADS = 200
CHECK_S = 0.5
"""Between two looks whether the stacks are due, and whether the training is over."""


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


class StacksWriter:
    """Writes the stacks when a plan is due. The file is made when there is something to write.

    A thread of this package does it, which sleeps otherwise. It reads the stacks as Python code does, while no other
    thread runs Python. `faulthandler.dump_traceback_later` does not wait for that: where a thread goes on during the
    reading, as after a SIGCONT or in a step that is only slow, it reads frames that are gone and ends the process
    (CPython issues 116008, 140815; here after 1 to 250 readings of a loop in plain Python, with Python 3.10 to 3.13).
    What the thread cannot do is read while a single native call keeps the interpreter to itself.

    It also is who notices that an exception has ended the training, of which no callback hears: then it ends.

    Args:
        path: the file.
        is_over: whether the training has ended.

    Attributes:
        planned: what is to be written when; None for nothing.
    """

    def __init__(self, path: Path, is_over: Callable[[], bool] = lambda: False) -> None:
        self._path = path
        self._is_over = is_over
        self.planned: PlannedDump | None = None
        self.is_started = False
        self._closed = threading.Event()

    def start(self) -> None:
        """Begin to look whether a plan is due; further calls do nothing. RuntimeError: no thread can be started."""
        if not self.is_started:
            thread = threading.Thread(target=self._run, name="rldk-stacks", daemon=True)
            thread.start()
            self.is_started = True

    def close(self) -> None:
        """Let the thread end."""
        self._closed.set()

    def _run(self) -> None:
        written: PlannedDump | None = None
        while not self._closed.wait(CHECK_S) and not self._is_over():
            dump = self.planned
            if dump is None or dump is written or time.monotonic() < dump.due:
                continue
            written = dump
            try:
                append_stacks(self._path, stacks_of(dump))
            except OSError as error:
                logger.debug("rldk: the stacks cannot be written to %s: %s", self._path, error)


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
