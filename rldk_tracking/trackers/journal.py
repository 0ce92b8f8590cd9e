"""Calls to a tracker as JSON lines: what `JsonlTracker` writes, and where undelivered calls wait to be sent later.

One object a line, with the time of the call in seconds since the epoch:

| type | further fields |
|---|---|
| metrics | step, metrics |
| draft | step, metrics: what was known of a step while its row was computed |
| alert | the fields of `Alert` |
| table | key, step, columns, rows |
| figure | key, step, svg |
| heatmap | key, step, heatmap (the fields of `Heatmap`) |
| status | step, status, metrics |

A journal of undelivered calls adds `tracker` (its name), `to` (its `address()`), and `uncertain: true` where the call
was under way when it was given up, so that the backend may or may not have it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rldk_tracking.charts.heatmap import Heatmap
from rldk_tracking.health.alert import Alert


def encode(method: str, args: tuple[Any, ...], time: float) -> dict[str, Any]:
    """The JSON object of one call. Raises KeyError for a method that no tracker has."""
    return {"time": time} | _ENCODERS[method](*args)


def decode(record: Mapping[str, Any]) -> tuple[str, tuple[Any, ...]]:
    """The call of one JSON object: method and arguments. Raises KeyError for a type that is not in the table above."""
    kind = record["type"]
    if kind == "metrics":
        return "log", (record["metrics"], record["step"])
    if kind == "alert":
        fields = {name: record[name] for name in Alert.__dataclass_fields__ if name in record}
        for name in ("value", "threshold"):
            if isinstance(fields.get(name), str):
                fields[name] = float(fields[name])
        return "alert", (Alert(**fields),)
    if kind == "table":
        return "log_table", (record["key"], record["columns"], record["rows"], record["step"])
    if kind == "figure":
        return "log_figure", (record["key"], record["svg"], record["step"])
    if kind == "heatmap":
        return "log_heatmap", (record["key"], Heatmap.of(record["heatmap"]), record["step"])
    if kind == "checkpoint":
        return "log_checkpoint", (record["name"], record["metrics"], record["params"], record["step"])
    if kind == "status":
        return "status", (record["status"], record["metrics"], record["step"])
    raise KeyError(f"unknown record type {kind!r}")


def _alert(alert: Alert) -> dict[str, Any]:
    return {"type": "alert"} | alert.as_dict()


_ENCODERS: dict[str, Callable[..., dict[str, Any]]] = {
    "log": lambda metrics, step: {"type": "metrics", "step": step, "metrics": dict(metrics)},
    "hold": lambda metrics, step: {"type": "draft", "step": step, "metrics": dict(metrics)},
    "alert": _alert,
    "log_table": lambda key, columns, rows, step: {
        "type": "table",
        "key": key,
        "step": step,
        "columns": list(columns),
        "rows": [list(row) for row in rows],
    },
    "log_figure": lambda key, svg, step: {"type": "figure", "key": key, "step": step, "svg": svg},
    "log_heatmap": lambda key, heatmap, step: {
        "type": "heatmap",
        "key": key,
        "step": step,
        "heatmap": heatmap.as_dict(),
    },
    "log_checkpoint": lambda name, metrics, params, step: {
        "type": "checkpoint",
        "step": step,
        "name": name,
        "metrics": dict(metrics),
        "params": dict(params),
    },
    "status": lambda status, metrics, step: {
        "type": "status",
        "step": step,
        "status": status,
        "metrics": dict(metrics),
    },
}


def dumps(record: Mapping[str, Any]) -> str:
    """One line of strict JSON: non-finite numbers become the strings "nan", "inf", "-inf", other objects their str."""
    try:
        return json.dumps(record, allow_nan=False, default=_plain)
    except ValueError:
        return json.dumps(_finite(record), allow_nan=False, default=_plain)


def _plain(value: Any) -> Any:
    item = getattr(value, "item", None)
    if callable(item) and getattr(value, "size", None) == 1:
        return _finite(item())
    return str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


class Journal:
    """An append-only file of JSON lines, readable by its owner only. Safe to use from several threads.

    The file is made at the first line. Raises OSError where the disk does.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._descriptor: int | None = None

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Write each record on a line of its own, handed to the operating system before this returns."""
        data = "".join(dumps(record) + "\n" for record in records).encode()
        if not data:
            return
        with self._lock:
            if self._descriptor is None:
                self._descriptor = self._open()
            while data:
                data = data[os.write(self._descriptor, data) :]

    def _open(self) -> int:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        if hasattr(os, "fchmod"):
            os.fchmod(descriptor, 0o600)
        size = os.fstat(descriptor).st_size
        if size:
            # A process that was killed may have left half a line: what follows must not be glued to it.
            os.lseek(descriptor, size - 1, os.SEEK_SET)
            if os.read(descriptor, 1) != b"\n":
                os.write(descriptor, b"\n")
        return descriptor

    def close(self) -> None:
        """Close the file; a later `append` opens it again."""
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None


def read(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """The records of a journal or of a `JsonlTracker` file, in order; lines that a killed process tore are left out.

    With those of the `.draft` file beside a `.jsonl` file, which a killed process left.
    """
    with contextlib.ExitStack() as files:
        lines: Iterable[str] = files.enter_context(open(path, encoding="utf-8", errors="replace"))
        drafts = Path(path).with_suffix(".draft")
        if Path(path).suffix == ".jsonl" and drafts.exists():
            lines = itertools.chain(lines, files.enter_context(open(drafts, encoding="utf-8", errors="replace")))
        yield from records(lines)


def records(lines: Iterable[str | bytes]) -> Iterator[dict[str, Any]]:
    """The record of each line that is one, but drafts of steps that have a row.

    A step whose row a killed process did not come to write has its draft in the place of it, after all else, with
    `draft: true`.
    """
    drafts: dict[str, dict[str, Any]] = {}
    rows: set[str] = set()
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if not isinstance(record, dict) or "type" not in record:
            continue
        step = str(record.get("step"))  # whatever a stranger's file has there
        if record["type"] == "draft":
            drafts[step] = record
            continue
        if record["type"] == "metrics":
            rows.add(step)
        yield record
    yield from (record | {"type": "metrics", "draft": True} for step, record in drafts.items() if step not in rows)
