"""Where every thread stands, written into a file shortly before a training counts as hung.

A thread of this package does it, which sleeps otherwise. It reads the stacks as Python code does, while no other thread
runs Python. `faulthandler.dump_traceback_later` does not wait for that: where a thread goes on during the reading, as
after a SIGCONT or in a step that is only slow, it reads frames that are gone and ends the process (CPython issues
116008, 140815; here after 1 to 250 readings of a loop in plain Python, with Python 3.10 to 3.13).

What the thread cannot do is read while a single native call keeps the interpreter to itself.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

logger = logging.getLogger(__name__)

CHECK_S = 0.5
FILE_BYTES = 1_000_000
"""A file that has grown beyond this begins anew."""
FRAMES_PER_THREAD = 200
THREADS = 200


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

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._planned: PlannedDump | None = None
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def plan(self, dump: PlannedDump | None) -> None:
        """Replace what was planned before; None for nothing. The first plan starts the thread.

        Raises:
            RuntimeError: no thread can be started.
        """
        self._planned = dump
        if self._thread is None and dump is not None:
            self._thread = threading.Thread(target=self._run, name="rldk-stacks", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Let the thread end."""
        self._closed.set()

    def _run(self) -> None:
        written: PlannedDump | None = None
        while not self._closed.wait(CHECK_S):
            dump = self._planned
            if dump is None or dump is written or time.monotonic() < dump.due:
                continue
            written = dump
            try:
                append(self._path, text_of(dump))
            except OSError as error:
                logger.debug("rldk: the stacks cannot be written to %s: %s", self._path, error)


def append(path: Path, text: str) -> None:
    """Add to the file in one go. Raises OSError where the disk does."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        if os.fstat(descriptor).st_size > FILE_BYTES:
            os.ftruncate(descriptor, 0)
        os.write(descriptor, text.encode("utf-8", errors="replace"))
    finally:
        os.close(descriptor)


def text_of(dump: PlannedDump) -> str:
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
        lines += ["", f"{name} (innermost frame first):", *_lines(frames[ident])]
    return "\n".join(lines) + "\n\n"


def _lines(frame: FrameType | None) -> Iterator[str]:
    for _ in range(FRAMES_PER_THREAD):
        if frame is None:
            return
        yield f'  File "{frame.f_code.co_filename}", line {frame.f_lineno} in {frame.f_code.co_name}'
        frame = frame.f_back
    if frame is not None:
        yield "  ..."
