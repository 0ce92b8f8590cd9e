"""Scans while a training goes on: one at a time, in a process that lives as long as there is something to scan.

The process keeps the interpreter lock, the threads of the linear algebra and the memory of the training to the
training, runs at a lower priority, and takes nothing with it should reading a file end it. It stays between two saves,
so that the scan of the last one has no process to wait for. The training never waits for it: at each step it is asked
whether a scan has ended.
"""

from __future__ import annotations

import contextlib
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
from typing import IO, cast

from rldk_tracking.checkpoint.findings import Level, Scan

logger = logging.getLogger(__name__)

QUEUE_LENGTH = 256
"""Checkpoints that may wait to be scanned."""
SINGLE_THREADED = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Blocks are too small to be worth dividing among threads."""
POLL_S = 0.005
"""Between two looks at a scan that is waited for at the end of the training."""
STARTS = 2
"""How often a scan is tried whose process had ended before it was asked, as it does when it has had nothing to do."""


@dataclass(frozen=True, slots=True)
class Request:
    """A checkpoint to be scanned, and what to compare it with: label to checkpoint."""

    path: Path
    against: Mapping[str, Path]


@dataclass(frozen=True, slots=True)
class Unscanned:
    """A checkpoint that was not scanned, and why: deleted meanwhile, without weights, or not in time."""

    path: Path
    reason: str


class BackgroundScans:
    """A queue of scans, in the order of the saves. Each ends as a `Scan` or as `Unscanned`.

    Args:
        level: of the scans. At "full" the process keeps the singular vectors in between.
    """

    def __init__(self, level: Level = "standard") -> None:
        self._level = level
        self._queue: deque[Request] = deque()
        self._given_up: list[Unscanned] = []
        self._current: Request | None = None
        self._starts = 0
        self._process: ScanProcess | None = None

    def submit(self, path: Path, against: Mapping[str, Path]) -> None:
        """Have a checkpoint scanned; returns at once. Of too many the oldest that waits is given up."""
        if len(self._queue) == QUEUE_LENGTH:
            self._given_up.append(Unscanned(self._queue.popleft().path, "saves come faster than scans"))
        self._queue.append(Request(path, dict(against)))
        self._ask()

    def finished(self) -> list[Scan | Unscanned]:
        """Scans that have ended since the last call; does not wait."""
        found: list[Scan | Unscanned] = []
        while self._current is not None and self._process is not None:
            has_ended = self._process.has_ended  # before a look at what it has answered
            answer = self._process.answer()
            if answer is None and not has_ended:
                break
            if answer is not None:
                found.append(_read(self._current.path, answer))
                self._current = None
            elif self._process.ended_idle and self._starts < STARTS:
                self._start()
            else:
                found.append(Unscanned(self._current.path, f"its scan failed: {self._process.last_words()}"))
                self._current = None
            self._ask()
        given_up, self._given_up = self._given_up, []
        return [*given_up, *found]

    def close(self, timeout: float) -> list[Scan | Unscanned]:
        """Wait for what was asked for, at most `timeout` seconds, then end it. Returns what came of it."""
        deadline = time.monotonic() + timeout
        found = self.finished()
        while self._current is not None and time.monotonic() < deadline:
            time.sleep(POLL_S)
            found += self.finished()
        left = [] if self._current is None else [self._current]
        late = f"its scan was not over {timeout:g} s after the training's end"
        found += [Unscanned(request.path, late) for request in [*left, *self._queue]]
        self._current = None
        self._queue.clear()
        if self._process is not None:
            self._process.terminate()
            self._process = None
        return found

    def _ask(self) -> None:
        """Ask for the next scan, of a new process where there is none that can be asked."""
        while self._current is None and self._queue:
            self._current, self._starts = self._queue.popleft(), 0
            self._start()

    def _start(self) -> None:
        if self._current is None:
            return
        try:
            if self._process is None or self._process.has_ended:
                if self._process is not None:
                    self._process.terminate()
                self._process = None
                self._process = ScanProcess(self._level)
            self._starts += 1
            self._process.ask(self._current)
        except OSError as error:
            self._given_up.append(Unscanned(self._current.path, f"its scan cannot be started: {error}"))
            self._current = None


def _read(path: Path, answer: str) -> Scan | Unscanned:
    try:
        record = json.loads(answer)
        return Unscanned(path, record["missing"]) if "missing" in record else Scan.from_dict(record)
    except (ValueError, KeyError, TypeError) as error:
        return Unscanned(path, f"its scan failed: {error}")


class ScanProcess:
    """A process that scans what it is asked to, one checkpoint at a time.

    Raises:
        OSError: no process can be started.
    """

    def __init__(self, level: Level) -> None:
        # Files, since nobody reads a pipe while it fills; each has a position of its own at either end.
        self._folder = tempfile.TemporaryDirectory(prefix="rldk-")
        answers, errors = Path(self._folder.name) / "answers.jsonl", Path(self._folder.name) / "errors.txt"
        command = [sys.executable, "-m", "rldk_tracking.checkpoint", "--level", level]
        with answers.open("wb") as output, errors.open("wb") as words:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=output, stderr=words, env=_environment()
            )
        self._orders = cast("IO[bytes]", self._process.stdin)
        self._answers, self._errors = answers.open("rb"), errors.open("rb")
        if os.name == "posix":  # where open files need no name, and nothing stays when the training is killed
            self._folder.cleanup()

    @property
    def has_ended(self) -> bool:
        """Whether no more answers come."""
        return self._process.poll() is not None

    @property
    def ended_idle(self) -> bool:
        """Whether it has ended because it was not asked for anything."""
        return self._process.poll() == 0

    def ask(self, request: Request) -> None:
        """Have a checkpoint scanned; does not wait for it. That the process has ended shows when it is looked at."""
        against = {label: str(path) for label, path in request.against.items()}
        try:
            line = json.dumps({"path": str(request.path), "against": against}) + "\n"
            self._orders.write(line.encode())
            self._orders.flush()
        except BrokenPipeError:
            self._process.wait()

    def answer(self) -> str | None:
        """The next line that it has written; None where it has not written it whole."""
        line = self._answers.readline()
        if line.endswith(b"\n"):
            return line.decode()
        self._answers.seek(-len(line), os.SEEK_CUR)
        return None

    def last_words(self) -> str:
        """Why it ended."""
        words = self._errors.read().decode(errors="replace").strip()
        return words[-500:] or f"its process ended with {self._process.wait()}"

    def terminate(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(BrokenPipeError):  # with what it was not told any more
            self._orders.close()
        self._answers.close()
        self._errors.close()
        self._folder.cleanup()


def _environment() -> dict[str, str]:
    """The training's, with this package on the path, without devices, and with one thread for linear algebra."""
    root = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": "", **dict.fromkeys(SINGLE_THREADED, "1")}
