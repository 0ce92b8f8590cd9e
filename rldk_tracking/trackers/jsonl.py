"""JSON lines in a local file: a run's rows and alerts where somebody wants them in a place of their own."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from rldk_tracking.charts.heatmap import Heatmap
from rldk_tracking.health.alert import Alert
from rldk_tracking.messages.arguments import text
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.backend import Backend, DemoStore
from rldk_tracking.trackers.base import Row, Tracker
from rldk_tracking.trackers.records import dumps, encode, parsed

try:
    import fcntl
except ImportError:  # Windows has none of these; there two processes for one file are not kept apart.
    fcntl = None  # type: ignore[assignment]

FILE_NAME = "run.jsonl"
_TAKEN = (errno.EWOULDBLOCK, errno.EACCES, errno.EAGAIN)
_TAIL_BYTES = 256 * 1024


def try_lock(descriptor: int) -> bool:
    """Lock an open file, until it is closed. False where another process holds it.

    True also on a file system that has no locks: a training must not stop for that.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _TAKEN
    return True


class LineFile:
    """An append-only file that always consists of whole lines, readable by its owner only.

    It is made at the first line. Safe to use from several threads.

    Args:
        path: where it is; its folder is made where it is missing.

    Raises (all methods):
        OSError: the disk does. What was half written is taken back.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._torn = False

    @property
    def is_gone(self) -> bool:
        """Whether the file was deleted since it was opened."""
        return self._descriptor is not None and os.fstat(self._descriptor).st_nlink == 0

    def open(self) -> int:
        """Open the file where it is not open yet, and end the line that a killed process left torn."""
        if self._descriptor is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                _prepare(descriptor)
            except OSError:
                os.close(descriptor)
                raise
            self._descriptor = descriptor
        return self._descriptor

    def try_lock(self) -> bool:
        """Lock the file, open or not, until it is closed; a crash releases it. False where another process has it.

        True also where it cannot be opened: a training must not stop for that.
        """
        try:
            return try_lock(self.open())
        except OSError:
            return True

    def append(self, data: bytes) -> None:
        """Hand whole lines to the operating system, in one write."""
        with self._lock:
            descriptor = self.open()
            if self._torn:
                data = b"\n" + data
            written = os.write(descriptor, data)
            if written < len(data):
                self._complete(descriptor, data, written)
            self._torn = False

    def close(self) -> None:
        """Close the file; a later `append` opens it again."""
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None

    def abandon(self) -> None:
        """In a forked child, whose parent may have been writing in another thread: close the child's descriptor."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _complete(self, descriptor: int, data: bytes, written: int) -> None:
        """Write the rest, or take back what a full disk took of it."""
        end = os.lseek(descriptor, 0, os.SEEK_CUR)
        start = end - written
        try:
            while written < len(data):
                written += os.write(descriptor, data[written:])
        except OSError:
            end = os.lseek(descriptor, 0, os.SEEK_CUR)
            if os.fstat(descriptor).st_size == end:
                os.ftruncate(descriptor, start)
            else:  # another process has appended its own line behind ours
                self._torn = True
            raise


class JsonlTracker(Tracker):
    """Appends to a file that only its owner can read; `rldk_tracking.trackers.records` describes the lines.

    Args:
        path: a file that ends in `.jsonl`, or a folder, in which `run.jsonl` is written. Without it, the folder `rldk`
            in the trainer's output folder.

    Examples:
        >>> import tempfile
        >>> from rldk_tracking import JsonlTracker, RLDKCallback
        >>> callback = RLDKCallback(trackers=[JsonlTracker(tempfile.mkdtemp())])
    """

    name: ClassVar[str] = "jsonl"

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        if not isinstance(path, os.PathLike):
            text("path", path, "the path of a file or folder", '"rldk/run.jsonl"')
        self._file = None if path is None else LineFile(_file(Path(path)))

    @property
    def path(self) -> Path | None:
        """The file, None until a run without an explicit path is opened."""
        return None if self._file is None else self._file.path

    @property
    def joined(self) -> bool:
        return self._file is not None

    def open(self, run: RunInfo) -> None:
        if self._file is None:
            self._file = LineFile(_file(Path(run.output_dir or ".") / "rldk"))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.log_rows([Row(metrics, step, time.time())])

    def log_rows(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._append("log", (row.metrics, row.step), row.time)

    def log_table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        self._append("log_table", (key, columns, rows, step))

    def log_figure(self, key: str, svg: str, step: int) -> None:
        self._append("log_figure", (key, svg, step))

    def log_heatmap(self, key: str, heatmap: Heatmap, step: int) -> None:
        self._append("log_heatmap", (key, heatmap, step))

    def log_checkpoint(self, name: str, metrics: Mapping[str, float], params: Mapping[str, str], step: int) -> None:
        self._append("log_checkpoint", (name, metrics, params, step))

    def alert(self, alert: Alert) -> None:
        self._append("alert", (alert,))

    def status(self, status: str, metrics: Mapping[str, float], step: int) -> None:
        self._append("status", (status, metrics, step))

    def last_step(self) -> int | None:
        """Read from the end of the file."""
        records = tail(self.path) if self.path else []
        steps = [record.get("step") for record in records if record["type"] == "metrics"]
        return max((step for step in steps if isinstance(step, int)), default=None)

    def address(self) -> Mapping[str, str]:
        return {} if self.path is None else {"path": str(self.path)}

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _append(self, method: str, args: tuple[Any, ...], now: float | None = None) -> None:
        if self._file is None:
            raise RuntimeError("JsonlTracker without a path must be opened before it is written to")
        record = encode(method, args, time.time() if now is None else now)
        self._file.append((dumps(record) + "\n").encode())


class JsonlStore(DemoStore):
    """A file of JSON lines for each run."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._files: list[str] = []

    def prepare(self) -> None:
        (self.folder / "rldk_demo").mkdir(parents=True, exist_ok=True)

    def path(self, name: str) -> Path:
        """The file of a run."""
        return self.folder / "rldk_demo" / f"{name}.jsonl"

    def trackers(self, name: str) -> list[Tracker] | None:
        self.path(name).unlink(missing_ok=True)
        return [JsonlTracker(self.path(name))]

    def finished(self, name: str) -> None:
        self._files.append(f"  {name:<18}{self.path(name)}")

    def how_to_open(self) -> list[str]:
        return ["One JSON object a line:", *self._files]


class JsonlBackend(Backend):
    """See `JsonlTracker`."""

    kind = JsonlTracker
    title: ClassVar[str] = "JSON lines, memory"
    demo = JsonlStore

    def check(self, versions: Mapping[str, str | None]) -> tuple[bool, str]:
        return True, "always there"


def tail(path: Path, size: int = _TAIL_BYTES) -> list[dict[str, Any]]:
    """The records in the last bytes of such a file; none where there is no file."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        start = max(0, file.seek(0, os.SEEK_END) - size)
        file.seek(start)
        lines = file.read().splitlines()
    return list(parsed(lines[1:] if start else lines))


def _file(path: Path) -> Path:
    return path if path.suffix == ".jsonl" else path / FILE_NAME


def _prepare(descriptor: int) -> None:
    if hasattr(os, "fchmod"):
        os.fchmod(descriptor, 0o600)
    size = os.fstat(descriptor).st_size
    if size:
        # A process that was killed may have left half a line: what follows must not be glued to it.
        os.lseek(descriptor, size - 1, os.SEEK_SET)
        if os.read(descriptor, 1) != b"\n":
            os.write(descriptor, b"\n")
