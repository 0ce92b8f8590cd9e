"""One JSON object a line in a local file: the tracker of runs that have no other."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from rldk_tracking.charts.heatmap import Heatmap
from rldk_tracking.health.alert import Alert
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.base import Row, Tracker
from rldk_tracking.trackers.draft import Draft, drafts
from rldk_tracking.trackers.journal import Journal, dumps, encode, records

FILE_NAME = "run.jsonl"


class JsonlTracker(Tracker):
    """Appends to a file that only its owner can read; `rldk_tracking.trackers.journal` describes the lines.

    Args:
        path: a file that ends in `.jsonl`, or a folder, in which `run.jsonl` is written. Without it, the folder `rldk`
            in the trainer's output folder.
    """

    name: ClassVar[str] = "jsonl"
    threaded: ClassVar[bool] = False

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self._journal = None if path is None else Journal(_file(Path(path)))
        self._draft: Draft | None = None

    @property
    def path(self) -> Path | None:
        """The file, None until a run without an explicit path is opened."""
        return None if self._journal is None else self._journal.path

    @property
    def joined(self) -> bool:
        return self._journal is not None

    def open(self, run: RunInfo) -> None:
        if self._journal is None:
            self._journal = Journal(_file(Path(run.output_dir or ".") / "rldk"))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.log_rows([Row(metrics, step, time.time())])

    def log_rows(self, rows: Sequence[Row]) -> None:
        self._opened().append([encode("log", (row.metrics, row.step), row.time) for row in rows])

    def hold(self, metrics: Mapping[str, float], step: int) -> None:
        """In a file beside this one, which `read` reads with it and which is gone when training has ended."""
        if self._draft is None:
            self._draft = self._adopted()
        self._draft.hold((dumps(encode("hold", (metrics, step), time.time())) + "\n").encode())

    def let_go(self) -> None:
        if self._draft is not None:
            self._draft.let_go()

    def log_table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        self._opened().append([encode("log_table", (key, columns, rows, step), time.time())])

    def log_figure(self, key: str, svg: str, step: int) -> None:
        self._opened().append([encode("log_figure", (key, svg, step), time.time())])

    def log_heatmap(self, key: str, heatmap: Heatmap, step: int) -> None:
        self._opened().append([encode("log_heatmap", (key, heatmap, step), time.time())])

    def log_checkpoint(self, name: str, metrics: Mapping[str, float], params: Mapping[str, str], step: int) -> None:
        self._opened().append([encode("log_checkpoint", (name, metrics, params, step), time.time())])

    def alert(self, alert: Alert) -> None:
        self._opened().append([encode("alert", (alert,), time.time())])

    def status(self, status: str, metrics: Mapping[str, float], step: int) -> None:
        self._opened().append([encode("status", (status, metrics, step), time.time())])

    def last_step(self) -> int | None:
        """Read from the end of the file. A step that has a draft alone may be made anew."""
        records = tail(self.path) if self.path else []
        rows = [record for record in records if record["type"] == "metrics" and not record.get("draft")]
        return max((record["step"] for record in rows), default=None)

    def address(self) -> Mapping[str, str]:
        return {} if self.path is None else {"path": str(self.path)}

    def close(self) -> None:
        if self._draft is not None:
            self._draft.close()
            self._draft = None
        if self._journal is not None:
            self._journal.close()

    def _adopted(self) -> Draft:
        """A new file of drafts. What a killed process left in its own comes into the journal, for good."""
        journal = self._opened()
        path = journal.path.with_suffix(".draft")
        journal.append([record | {"type": "draft"} for record in drafts(path, after=self.last_step() or 0)])
        return Draft(path)

    def _opened(self) -> Journal:
        if self._journal is None:
            raise RuntimeError("JsonlTracker without a path must be opened before it is written to")
        return self._journal


def tail(path: Path, size: int = 256 * 1024) -> list[dict[str, Any]]:
    """The records in the last bytes of such a file; none where there is no file."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        start = max(0, file.seek(0, os.SEEK_END) - size)
        file.seek(start)
        lines = file.read().splitlines()
    return list(records(lines[1:] if start else lines))


def _file(path: Path) -> Path:
    return path if path.suffix == ".jsonl" else path / FILE_NAME
