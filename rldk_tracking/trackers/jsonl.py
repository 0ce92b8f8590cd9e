"""JSON lines in a local file: a run's rows and alerts where somebody wants them in a place of their own."""

from __future__ import annotations

import os
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
from rldk_tracking.trackers.lines import LineFile, line_of
from rldk_tracking.trackers.records import encode, parsed

FILE_NAME = "run.jsonl"
_TAIL_BYTES = 256 * 1024


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
            self._append("log", (row.all, row.step), row.time)

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
        self._file.append(line_of(record))


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
