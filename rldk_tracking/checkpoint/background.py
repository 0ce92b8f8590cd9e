"""Scans while a training goes on: one at a time, each in a process of its own, started and awaited by one thread.

A process keeps the interpreter lock, the threads of the linear algebra and the memory of the training to the training,
runs at a lower priority, and takes nothing with it should reading a file end it.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rldk_tracking.checkpoint.findings import Level, Scan

logger = logging.getLogger(__name__)

QUEUE_LENGTH = 16
"""Checkpoints that may wait to be scanned."""
SINGLE_THREADED = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Blocks are too small to be worth dividing among threads."""
UNREADABLE = 3
"""Exit code of a scan that found nothing to read: the checkpoint is gone."""


@dataclass(frozen=True, slots=True)
class Request:
    """A checkpoint to be scanned, and what to compare it with: label to checkpoint."""

    path: Path
    against: Mapping[str, Path]


class BackgroundScans:
    """A short queue. Where saves come faster than scans for long, the oldest that waits is given up.

    Args:
        level: of the scans.
    """

    def __init__(self, level: Level = "standard") -> None:
        self._process = ScanProcess(level)
        self._queue: queue.Queue[Request | None] = queue.Queue(maxsize=QUEUE_LENGTH)
        self._finished: queue.SimpleQueue[Scan] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._warned = False

    def submit(self, path: Path, against: Mapping[str, Path]) -> None:
        """Have a checkpoint scanned; returns at once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="rldk-checkpoint-scans", daemon=True)
            self._thread.start()
        request = Request(path, dict(against))
        while True:
            try:
                self._queue.put_nowait(request)
                return
            except queue.Full:
                try:
                    self._queue.get_nowait()
                except queue.Empty:
                    continue

    def finished(self) -> list[Scan]:
        """Scans that have ended since the last call; does not wait."""
        found = []
        while not self._finished.empty():
            found.append(self._finished.get())
        return found

    def close(self, timeout: float) -> list[Scan]:
        """Wait for what was asked for, at most `timeout` seconds, then end it. Returns what is finished."""
        if self._thread is not None:
            deadline = time.monotonic() + timeout
            try:
                self._queue.put(None, timeout=timeout)
            except queue.Full:
                logger.warning("rldk: the scan of the last checkpoints takes longer than %.0f s and is ended.", timeout)
            self._thread.join(max(0.0, deadline - time.monotonic()))
            self._process.terminate()
            self._thread.join(5.0)
            self._thread = None
        self._process.close()
        return self.finished()

    def _work(self) -> None:
        while not self._process.terminated:
            request = self._queue.get()
            if request is None:
                return
            found = self._scan(request)
            if found is not None:
                self._finished.put(found)

    def _scan(self, request: Request) -> Scan | None:
        try:
            return self._process.scan(request)
        except FileNotFoundError as error:
            if request.path.is_dir() and not self._warned:  # otherwise it was deleted meanwhile
                self._warned = True
                logger.warning("rldk: %s Nothing of it is looked at.", error)
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("rldk: the scan of %s failed: %s", request.path, error)
        return None


class ScanProcess:
    """Runs scans one after the other.

    Args:
        level: of the scans. At "full" the singular vectors are kept in between, in a folder that `close` deletes.
    """

    def __init__(self, level: Level) -> None:
        self.terminated = False
        self._level = level
        self._process: subprocess.Popen[str] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="rldk-") if level == "full" else None

    def scan(self, request: Request) -> Scan | None:
        """Waits for the scan; None after `terminate`.

        Raises:
            FileNotFoundError: there are no weights at the path.
            ValueError: the process ended without a result.
        """
        if self.terminated:
            return None
        command = [sys.executable, "-m", "rldk_tracking.checkpoint", str(request.path), "--level", self._level]
        for label, other in request.against.items():
            command += ["--against", label, str(other)]
        if self._folder is not None:
            command += ["--vectors", str(Path(self._folder.name) / "vectors.npz")]
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_environment()
        )
        output, errors = self._process.communicate()
        code, self._process = self._process.returncode, None
        if self.terminated:
            return None
        if code == UNREADABLE:
            raise FileNotFoundError(errors.strip()[-500:])
        if not output:
            raise ValueError(errors.strip()[-500:] or f"its process ended with {code}")
        return Scan.from_dict(json.loads(output))

    def terminate(self) -> None:
        """End the scan that runs, and let none begin, from another thread."""
        self.terminated = True
        process = self._process
        if process is not None:
            process.terminate()

    def close(self) -> None:
        """Leave nothing behind."""
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


def _environment() -> dict[str, str]:
    """The training's, with this package on the path, without devices, and with one thread for linear algebra."""
    root = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": "", **dict.fromkeys(SINGLE_THREADED, "1")}
