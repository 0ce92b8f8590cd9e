"""Scans beside a training: each in a process of its own, one at a time, started and awaited by one thread."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from rldk_tracking.checkpoint.division import INTERVAL, Division, Request
from rldk_tracking.checkpoint.findings import Level, Scan
from rldk_tracking.checkpoint.process import ScanProcess
from rldk_tracking.checkpoint.record import merge

logger = logging.getLogger(__name__)

WAITING = 16
"""Checkpoints that may wait to be scanned."""


class BackgroundScans:
    """A short queue. Where saves come faster than scans for long, the oldest that waits is given up.

    Args:
        level: of the scans.
        division: with the other ranks, where they are to read their shares. On them `help` takes the place of `submit`.
    """

    def __init__(self, level: Level = "standard", division: Division | None = None) -> None:
        self._scanner = ScanProcess(level)
        self._division = division
        self._waiting: queue.Queue[Request | None] = queue.Queue(maxsize=WAITING)
        self._finished: queue.SimpleQueue[Scan] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self._told = False

    def submit(self, path: Path, against: Mapping[str, Path]) -> None:
        """Have a checkpoint scanned; returns at once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="rldk-checkpoint-scans", daemon=True)
            self._thread.start()
        self._put(Request(path, dict(against)))

    def help(self) -> None:
        """On another rank than 0: read this rank's share of whatever rank 0 asks for, until `close`."""
        if self._thread is None and self._division is not None:
            self._thread = threading.Thread(target=self._serve, name="rldk-checkpoint-shares", daemon=True)
            self._thread.start()

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
            self._ended.set()
            self._scanner.terminate()
            self._thread.join(5.0)
            self._thread = None
        self._scanner.close()
        if self._division is not None and self._division.rank == 0:
            self._division.clear()
        return self.finished()

    def _put(self, request: Request) -> None:
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
        while not self._ended.is_set():
            request = self._waiting.get()
            if request is None:
                return
            found = self._tried(request)
            if found is not None:
                self._finished.put(found)

    def _serve(self) -> None:
        division = self._division
        while division is not None and not self._ended.wait(INTERVAL):
            for request in division.requests():
                found = self._tried(request)
                if found is not None and not division.over:
                    division.deliver(request, found)
            if division.over and not self._waiting.empty():
                return

    def _tried(self, request: Request) -> Scan | None:
        try:
            return self._scan(request)
        except FileNotFoundError as error:
            if request.path.is_dir() and not self._told:  # otherwise it was deleted meanwhile
                self._told = True
                logger.warning("rldk: %s Nothing of it is looked at.", error)
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("rldk: the scan of %s failed: %s", request.path, error)
        return None

    def _scan(self, request: Request) -> Scan | None:
        division = self._division
        if division is not None and division.rank > 0:
            return self._scanner.scan(request.path, request.against, (division.rank, division.ranks))
        if division is None or not division.applies(request.path):
            return self._scanner.scan(request.path, request.against)
        division.ask(request)
        own = self._scanner.scan(request.path, request.against, (0, division.ranks))
        if own is None:
            return None
        parts = division.collect(request, own.seconds, self._ended.is_set)
        for rank in range(1, division.ranks):
            if rank not in parts and not self._ended.is_set():
                found = self._scanner.scan(request.path, request.against, (rank, division.ranks))
                if found is not None:
                    parts[rank] = found
        return None if self._ended.is_set() else merge([own, *parts.values()])
