"""Where every thread of a training stands, written down shortly before it counts as hung."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from rldk_tracking.journal.beats import PlannedDump, append_stacks, stacks_of

logger = logging.getLogger(__name__)

CHECK_S = 0.5
"""Between two looks whether the stacks are due, and whether the training is over."""


class StacksWriter:
    """Writes the stacks when a plan is due. The file is made when there is something to write.

    A thread of this package does it, which sleeps otherwise. It reads the stacks as Python code does, while no other
    thread runs Python. `faulthandler.dump_traceback_later` does not wait for that: where a thread goes on during the
    reading, as after a SIGCONT or in a step that is only slow, it reads frames that are gone and ends the process
    (CPython issues 116008, 140815; here after 1 to 250 readings of a loop in plain Python, with Python 3.10 to 3.13).
    What the thread cannot do is read while a single native call keeps the interpreter to itself.

    It also is who notices that an exception has ended the training, which is told to no callback: then it ends.

    Args:
        path: the file.
        is_over: whether the training has ended.
    """

    def __init__(self, path: Path, is_over: Callable[[], bool] = lambda: False) -> None:
        self._path = path
        self._is_over = is_over
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
        while not self._closed.wait(CHECK_S) and not self._is_over():
            dump = self._planned
            if dump is None or dump is written or time.monotonic() < dump.due:
                continue
            written = dump
            try:
                append_stacks(self._path, stacks_of(dump))
            except OSError as error:
                logger.debug("rldk: the stacks cannot be written to %s: %s", self._path, error)
