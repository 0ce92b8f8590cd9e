"""The ranks of a training divide a scan among them, through files in a folder that all of them see.

A collective would have to take place on the training's thread, between its steps, and wait for the slowest. So rank 0
writes down what is to be read, the others look for that now and then, and each writes what it found of its share. What
is not there in time, or never because a rank has another disk, rank 0 reads itself.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rldk_tracking.checkpoint.findings import Scan
from rldk_tracking.checkpoint.record import from_dict, to_dict

FOLDER = "_rldk_scans"
LEAST_BYTES = 1 << 30
"""Checkpoints below this size are read sooner by one rank than the others hear of it."""
PATIENCE, PATIENCE_FACTOR = 30.0, 3.0
"""Seconds that rank 0 waits for the others after its own share, or so many times what that took."""
INTERVAL = 0.5
"""Seconds between two looks."""


@dataclass(frozen=True, slots=True)
class Request:
    """A checkpoint to be read, and what to compare it with."""

    path: Path
    against: Mapping[str, Path]


class Division:
    """One rank's end of it.

    Args:
        output_dir: a folder that the ranks share, the trainer's.
        rank, ranks: of the training.
        least_bytes: size of a checkpoint from which it is divided.
    """

    def __init__(self, output_dir: Path, rank: int, ranks: int, *, least_bytes: int = LEAST_BYTES) -> None:
        self.rank, self.ranks = rank, ranks
        self._folder = output_dir / FOLDER
        self._least_bytes = least_bytes
        self._answered: set[int] = set(range(1, ranks))
        self._seen: set[str] = set()
        if rank == 0:
            self.clear()
            self._folder.mkdir(parents=True)

    @property
    def over(self) -> bool:
        """Whether rank 0 has ended it, or was never heard of here."""
        return not self._folder.is_dir()

    def applies(self, path: Path) -> bool:
        """Whether this checkpoint is worth dividing, among ranks that have answered so far."""
        size = sum(file.stat().st_size for file in path.glob("*") if file.suffix in (".safetensors", ".bin"))
        return bool(self._answered) and size >= self._least_bytes

    def ask(self, request: Request) -> None:
        """Rank 0 tells the others."""
        record = {"path": str(request.path), "against": {k: str(v) for k, v in request.against.items()}}
        self._write(f"{request.path.name}.request", record)

    def requests(self) -> list[Request]:
        """What the others have been told since the last call."""
        found = []
        for file in sorted(self._folder.glob("*.request")):
            if file.name not in self._seen:
                self._seen.add(file.name)
                record = json.loads(file.read_text())
                against = {str(label): Path(other) for label, other in record["against"].items()}
                found.append(Request(Path(record["path"]), against))
        return found

    def deliver(self, request: Request, found: Scan) -> None:
        """A rank's share is read."""
        self._write(f"{request.path.name}.part{self.rank}", to_dict(found))

    def collect(self, request: Request, own_seconds: float, ended: Callable[[], bool]) -> dict[int, Scan]:
        """Rank to its share, of those that are there in time. A rank that was not is not waited for again."""
        deadline = time.monotonic() + max(PATIENCE, PATIENCE_FACTOR * own_seconds)
        parts: dict[int, Scan] = {}
        while self._answered - parts.keys() and time.monotonic() < deadline and not ended():
            for rank in self._answered - parts.keys():
                file = self._folder / f"{request.path.name}.part{rank}"
                if file.exists():
                    parts[rank] = from_dict(json.loads(file.read_text()))
            if self._answered - parts.keys():
                time.sleep(INTERVAL / 5)
        if not ended():
            self._answered &= parts.keys()
        for file in self._folder.glob(f"{request.path.name}.*"):
            file.unlink(missing_ok=True)
        return parts

    def clear(self) -> None:
        """Leave nothing behind."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _write(self, name: str, record: object) -> None:
        """Whole or not at all."""
        half = self._folder / f".{name}"
        half.write_text(json.dumps(record))
        os.replace(half, self._folder / name)
