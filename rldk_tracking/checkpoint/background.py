"""Scans beside a training: each in a process of its own, one at a time, started and awaited by one thread.

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
from pathlib import Path

from rldk_tracking.checkpoint.findings import Level, Scan
from rldk_tracking.checkpoint.record import from_dict

logger = logging.getLogger(__name__)

NOT_INHERITED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What would make the process believe that it is a rank of the training."""
WAITING = 16
"""Checkpoints that may wait to be scanned."""
UNREADABLE = 3
"""Exit code of a scan that found nothing to read: the checkpoint is gone."""


class BackgroundScans:
    """A short queue. Where saves come faster than scans for long, the oldest that waits is given up.

    Args:
        level: of the scans.
    """

    def __init__(self, level: Level = "standard") -> None:
        self._level = level
        self._waiting: queue.Queue[tuple[Path, dict[str, Path]] | None] = queue.Queue(maxsize=WAITING)
        self._finished: queue.SimpleQueue[Scan] = queue.SimpleQueue()
        self._process: subprocess.Popen[str] | None = None
        self._thread: threading.Thread | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="rldk-") if level == "full" else None
        self._closing = self._told = False

    def submit(self, path: Path, against: Mapping[str, Path]) -> None:
        """Have a checkpoint scanned; returns at once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="rldk-checkpoint-scans", daemon=True)
            self._thread.start()
        self._put((path, dict(against)))

    def finished(self) -> list[Scan]:
        """Scans that have ended since the last call; does not wait."""
        found = []
        while not self._finished.empty():
            found.append(self._finished.get())
        return found

    def close(self, timeout: float) -> list[Scan]:
        """Wait for what was asked for, at most so many seconds, then end it. Returns what is finished."""
        if self._thread is not None:
            deadline = time.monotonic() + timeout
            try:
                self._waiting.put(None, timeout=timeout)
            except queue.Full:
                logger.warning("rldk: the scan of the last checkpoints takes longer than %.0f s and is ended.", timeout)
            self._thread.join(max(0.0, deadline - time.monotonic()))
            self._closing = True
            process = self._process
            if process is not None:
                process.terminate()
            self._thread.join(5.0)
            self._thread = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
        return self.finished()

    def _put(self, request: tuple[Path, dict[str, Path]]) -> None:
        while True:
            try:
                self._waiting.put_nowait(request)
                return
            except queue.Full:
                try:
                    self._waiting.get_nowait()
                except queue.Empty:
                    continue

    def _work(self) -> None:
        while not self._closing:
            request = self._waiting.get()
            if request is None:
                return
            try:
                found = self._scan(*request)
            except (OSError, ValueError, KeyError, TypeError) as error:
                logger.warning("rldk: the scan of %s failed: %s", request[0], error)
                continue
            if found is not None:
                self._finished.put(found)

    def _scan(self, path: Path, against: Mapping[str, Path]) -> Scan | None:
        command = [sys.executable, "-m", "rldk_tracking.checkpoint", str(path), "--format", "json", "--nice"]
        command += ["--level", self._level]
        for label, other in against.items():
            command += [f"--{label}", str(other)]
        if self._folder is not None:
            command += ["--vectors", str(Path(self._folder.name) / "vectors.npz")]
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_environment()
        )
        output, errors = self._process.communicate()
        code, self._process = self._process.returncode, None
        if code == UNREADABLE and path.is_dir() and not self._told:
            self._told = True
            logger.warning("rldk: %s Nothing of it is looked at.", errors.strip()[-500:])
        if self._closing or code == UNREADABLE:
            return None
        if not output:
            raise ValueError(errors.strip()[-500:] or f"its process ended with {code}")
        return from_dict(json.loads(output))


def _environment() -> dict[str, str]:
    """The training's, without its place among the ranks and its devices, and with this package on the path."""
    kept = {key: value for key, value in os.environ.items() if key not in NOT_INHERITED}
    root = str(Path(__file__).resolve().parents[2])
    kept["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [kept.get("PYTHONPATH")])])
    kept["CUDA_VISIBLE_DEVICES"] = ""
    return kept
