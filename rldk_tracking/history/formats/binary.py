"""What trackers keep on this machine: W&B's own file of a run, and TensorBoard's event files."""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rldk_tracking.history.formats.content import Content, Entries, Parsed
from rldk_tracking.history.run_history import UnreadableSourceError

BLOCK_BYTES, HEADER = 1 << 15, struct.Struct("<IHB")
FULL, FIRST, LAST = 1, 2, 4


def is_wandb(content: Content) -> bool:
    """By its first bytes."""
    return content.head.startswith(b":W&B")


def read_wandb(content: Content) -> Parsed:
    """What W&B keeps of a run, also of one that was never sent: a row for each call of its `log`.

    Raises:
        ImportError: wandb is not installed.
        UnreadableSourceError: a record is damaged.
    """
    try:
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped,unused-ignore]
        from wandb.proto.wandb_internal_pb2 import Record
    except ImportError as error:
        raise ImportError("Reading W&B's files needs wandb: pip install wandb.") from error
    entries: Entries = []
    try:
        for data in records(content.whole()):
            record = Record.FromString(data)
            if record.HasField("history"):
                items = record.history.item
                entries.append({one.key or "/".join(one.nested_key): json.loads(one.value_json) for one in items})
    except (DecodeError, ValueError, RecursionError) as error:
        raise UnreadableSourceError(
            f"{content.path}: W&B's own file, but damaged after {len(entries)} rows."
        ) from error
    return Parsed("W&B's own file", {"": entries})


def is_tensorboard(content: Content) -> bool:
    """By the version that its first record tells."""
    return b"brain.Event:" in content.head[:64]


def read_tensorboard(content: Content) -> Parsed:
    """The scalars of one event file. TensorBoard takes only what is named as it names it, so that it gets a copy."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "events.out.tfevents.0")
        copy.write_bytes(content.whole())
        return Parsed("TensorBoard events", {"": list(scalars([copy]))})


def read_events(folder: Path) -> Iterator[dict[str, Any]]:
    """Scalars of a TensorBoard folder: one entry a step, steps in order.

    Of a step that was written twice (a resumed run) the later value holds.

    Raises:
        ImportError: tensorboard is not installed.
    """
    return scalars(sorted(path for path in folder.rglob("events.out.tfevents.*") if path.is_file()))


def scalars(paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """Those of some event files. Raises as `read_events` does."""
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError as error:
        raise ImportError("Reading TensorBoard files needs tensorboard: pip install tensorboard.") from error
    values: dict[int, dict[str, tuple[float, float]]] = {}
    for path in paths:
        events = EventAccumulator(str(path), size_guidance={"scalars": 0})
        events.Reload()
        for tag in events.Tags()["scalars"]:
            for event in events.Scalars(tag):
                at = values.setdefault(event.step, {})
                if tag not in at or event.wall_time >= at[tag][0]:
                    at[tag] = (event.wall_time, event.value)
    for step in sorted(values):
        yield {"step": step} | {tag: value for tag, (_, value) in values[step].items()}


def records(content: bytes) -> Iterator[bytes]:
    """Records of a file in the format of LevelDB's log, whole ones: a kill may tear the last.

    Blocks of 32 KiB; a record is in one piece or in several, each after a checksum, its length and which piece it is.
    """
    place, pieces = HEADER.size, b""
    while place < len(content):
        left = BLOCK_BYTES - place % BLOCK_BYTES
        if left < HEADER.size or place + HEADER.size > len(content):
            place += left
            continue
        _, length, piece = HEADER.unpack_from(content, place)
        place += HEADER.size
        pieces = content[place : place + length] if piece in (FULL, FIRST) else pieces + content[place : place + length]
        place += length
        if piece in (FULL, LAST) and place <= len(content):
            yield pieces
