"""Reads the transaction log that W&B keeps of a run (`run-<id>.wandb`), without W&B's server or command line.

The file begins with seven bytes: ":W&B", a magic number, a version. Then come blocks of 32 KiB as in LevelDB's log
format: fragments with a header of a checksum (4 bytes), a length (2) and a kind (1: whole, 2: first, 3: middle,
4: last), zeros where fewer than seven bytes are left of a block. The fragments of one record together are one protobuf
message.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK = 32 * 1024
FRAGMENT = struct.Struct("<IHB")
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


@dataclass
class WandbLog:
    """What a run left.

    Attributes:
        rows: history in the order logged, with W&B's own `_step`.
        alerts: (title, text, level).
        step_metrics: key -> the x-axis that `define_metric` gave it; patterns are keys with a star.
        summary: last values.
        ended: whether the run was finished.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    alerts: list[tuple[str, str, str]] = field(default_factory=list)
    step_metrics: dict[str, str] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    ended: bool = False

    def series(self, key: str) -> list[tuple[Any, Any]]:
        """(train/global_step, value) of each row that has the key."""
        return [(row.get("train/global_step"), row[key]) for row in self.rows if key in row]


def messages(data: bytes) -> Iterator[bytes]:
    """The records' bytes. Ends early, without an error, where the file is not written to its end yet."""
    if data[:4] != b":W&B":
        raise ValueError("not a W&B transaction log")
    position, record = 7, bytearray()
    while position + FRAGMENT.size <= len(data):
        left = BLOCK - position % BLOCK
        if left < FRAGMENT.size:
            position += left
            continue
        _, length, kind = FRAGMENT.unpack_from(data, position)
        start, position = position + FRAGMENT.size, position + FRAGMENT.size + length
        if kind not in (WHOLE, FIRST, MIDDLE, LAST) or position > len(data):
            return
        if kind in (WHOLE, FIRST):
            record.clear()
        record += data[start:position]
        if kind in (WHOLE, LAST):
            yield bytes(record)


def load(path: Path) -> WandbLog:
    """Everything in a log file that the tests ask about."""
    from wandb.proto import wandb_internal_pb2

    log = WandbLog()
    for data in messages(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "history":
            log.rows.append(_values(record.history.item))
        elif kind == "alert":
            log.alerts.append((record.alert.title, record.alert.text, record.alert.level))
        elif kind == "metric":
            log.step_metrics[record.metric.name or record.metric.glob_name] = record.metric.step_metric
        elif kind == "summary":
            log.summary.update(_values(record.summary.update))
        elif kind == "exit":
            log.ended = True
    return log


def load_finished(folder: Path, seconds: float = 10.0) -> WandbLog:
    """The one log under a folder, once it is complete: `finish` of an offline run returns a little earlier."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = sorted(folder.rglob("run-*.wandb"))
        if len(found) > 1:
            raise ValueError(f"more than one run: {found}")
        if found and (log := load(found[0])).ended:
            return log
        time.sleep(0.05)
    raise TimeoutError(f"no finished run in {folder}")


def _values(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
