"""Scans while a training goes on: one at a time, each in a process of its own.

A process keeps the interpreter lock, the threads of the linear algebra and the memory of the training to the training,
runs at a lower priority, and takes nothing with it should reading a file end it. The training never waits for it: at
each step it is asked whether it has ended.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rldk_tracking.checkpoint.findings import Level, Scan

logger = logging.getLogger(__name__)

QUEUE_LENGTH = 16
"""Checkpoints that may wait to be scanned."""
SINGLE_THREADED = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Blocks are too small to be worth dividing among threads."""
UNREADABLE = 3
"""Exit code of a scan that found nothing to read: the checkpoint is gone."""
POLL_S = 0.02
"""Between two looks at a scan that is waited for at the end of the training."""


@dataclass(frozen=True, slots=True)
class Request:
    """A checkpoint to be scanned, and what to compare it with: label to checkpoint."""

    path: Path
    against: Mapping[str, Path]


class BackgroundScans:
    """A short queue. Where saves come faster than scans for long, the oldest that waits is given up.

    Args:
        level: of the scans. At "full" the singular vectors are kept in between, in a folder that `close` deletes.
    """

    def __init__(self, level: Level = "standard") -> None:
        self._level = level
        self._folder = tempfile.TemporaryDirectory(prefix="rldk-") if level == "full" else None
        self._queue: deque[Request] = deque(maxlen=QUEUE_LENGTH)
        self._running: ScanProcess | None = None
        self._warned = False

    def submit(self, path: Path, against: Mapping[str, Path]) -> None:
        """Have a checkpoint scanned; returns at once."""
        self._queue.append(Request(path, dict(against)))
        self._start_next()

    def finished(self) -> list[Scan]:
        """Scans that have ended since the last call; does not wait."""
        found = []
        while self._running is not None and self._running.has_ended:
            running, self._running = self._running, None
            scan = self._read(running)
            if scan is not None:
                found.append(scan)
            self._start_next()
        return found

    def close(self, timeout: float) -> list[Scan]:
        """Wait for what was asked for, at most `timeout` seconds, then end it. Returns what is finished."""
        deadline = time.monotonic() + timeout
        found = self.finished()
        while self._running is not None and time.monotonic() < deadline:
            time.sleep(POLL_S)
            found += self.finished()
        if self._running is not None:
            logger.warning("rldk: the scan of the last checkpoints takes longer than %.0f s and is ended.", timeout)
            self._running.terminate()
            self._running = None
        self._queue.clear()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
        return found

    def _start_next(self) -> None:
        while self._running is None and self._queue:
            request = self._queue.popleft()
            try:
                self._running = ScanProcess(
                    request, self._level, None if self._folder is None else Path(self._folder.name)
                )
            except OSError as error:
                logger.warning("rldk: the scan of %s cannot be started: %s", request.path, error)

    def _read(self, process: ScanProcess) -> Scan | None:
        path = process.request.path
        try:
            return process.result()
        except FileNotFoundError as error:
            if path.is_dir() and not self._warned:  # otherwise it was deleted meanwhile
                self._warned = True
                logger.warning("rldk: %s Nothing of it is looked at.", error)
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("rldk: the scan of %s failed: %s", path, error)
        return None


class ScanProcess:
    """One scan, from construction on.

    Args:
        request: what is scanned.
        level: of the scan.
        folder: where a scan finds the singular vectors of the one before; None keeps none.

    Raises:
        OSError: no process can be started.
    """

    def __init__(self, request: Request, level: Level, folder: Path | None = None) -> None:
        self.request = request
        command = [sys.executable, "-m", "rldk_tracking.checkpoint", str(request.path), "--level", level]
        for label, other in request.against.items():
            command += ["--against", label, str(other)]
        if folder is not None:
            command += ["--vectors", str(folder / "vectors.npz")]
        # Files, since nobody reads a pipe while it fills.
        self._output: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open for as long as the process
        self._errors: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self._output, stderr=self._errors, env=_environment()
        )

    @property
    def has_ended(self) -> bool:
        """Whether `result` gives it without waiting."""
        return self._process.poll() is not None

    def result(self) -> Scan:
        """What was found, once; waits for it.

        Raises:
            FileNotFoundError: there are no weights at the path.
            ValueError: the process ended without a result.
        """
        code = self._process.wait()
        output, errors = (_whole(file) for file in (self._output, self._errors))
        if code == UNREADABLE:
            raise FileNotFoundError(errors.strip()[-500:])
        if not output:
            raise ValueError(errors.strip()[-500:] or f"its process ended with {code}")
        return Scan.from_dict(json.loads(output))

    def terminate(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._output.close()
        self._errors.close()


def _whole(file: IO[str]) -> str:
    with file:
        file.seek(0)
        return file.read()


def _environment() -> dict[str, str]:
    """The training's, with this package on the path, without devices, and with one thread for linear algebra."""
    root = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": "", **dict.fromkeys(SINGLE_THREADED, "1")}
