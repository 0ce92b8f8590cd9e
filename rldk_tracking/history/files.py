"""Log files as entries: JSON lines, JSON, CSV, what a trainer printed, TensorBoard.

Whatever a file holds, an error says which file and why.

Only regular files are opened: a pipe would be waited for, and a device such as `/dev/zero` has no end.
"""

from __future__ import annotations

import ast
import csv
import json
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rldk_tracking.history.run_history import UnreadableSourceError
from rldk_tracking.trackers.records import run_info

LARGEST_JSON_BYTES = 1 << 30
"""A JSON file is read as a whole; JSON lines and CSV are not."""
LONGEST_LINE_BYTES = 1 << 26
LONGEST_CELL_CHARACTERS = 1 << 24
SETTINGS = ("max_steps", "num_train_epochs", "train_batch_size")
"""What a `trainer_state.json` says of the configuration."""

WITHIN = ("data", "metrics", "logs")
"""Under which loggers write a step's numbers together: verl's file has `{"step": 1, "data": {...}}`."""
VERL = re.compile(r"\bstep:(?P<step>\d+) - (?P<metrics>.*)")
VERL_METRIC = re.compile(r"(?P<name>\S+?):(?:np\.\w+\()?(?P<value>[-+.\w]+)\)?")
TRANSFORMERS = re.compile(r"\{'[^{}]*\}")
NOT_FINITE = re.compile(r"(?<=: )(?:nan|-?inf)\b")
"""What is printed of a step: `step:1 - actor/lr:1e-06 - ...`, and `{'loss': 0.5, ...}`."""

Entries = list[Mapping[str, Any]]


@dataclass(frozen=True)
class Log:
    """What a file holds.

    Attributes:
        entries: in order.
        settings: what it says of the run's configuration.
        skipped: lines of a journal that hold no record.
    """

    entries: Entries
    settings: Mapping[str, Any]
    skipped: int = 0


def read_log(path: Path) -> Log:
    """The entries of a file.

    Raises:
        UnreadableSourceError: it is no regular file, its suffix is not known, or its content is not what that says.
        OSError: it cannot be opened.
    """
    readers = {
        ".jsonl": _json_lines,
        ".json": _json,
        ".csv": _csv,
        ".log": _printed,
        ".txt": _printed,
        ".wandb": _wandb,
    }
    if not path.exists():
        raise UnreadableSourceError(f"{path}: no such file or folder.")
    if not path.is_file():
        raise UnreadableSourceError(f"{path}: not a regular file.")
    if path.suffix == ".db":
        raise UnreadableSourceError(
            f"{path}: an MLflow store is read run by run: set MLFLOW_TRACKING_URI=sqlite:///{path} and name "
            "mlflow:RUN_ID or mlflow:experiment/NAME."
        )
    if path.suffix not in readers:
        raise UnreadableSourceError(f"{path}: known are {', '.join(readers)} files, and folders.")
    return readers[path.suffix](path)


def read_events(folder: Path) -> Iterator[dict[str, Any]]:
    """Scalars of a TensorBoard folder: one entry a step, steps in order.

    Of a step that was written twice (a resumed run) the later value holds.

    Raises:
        ImportError: tensorboard is not installed.
    """
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError as error:
        raise ImportError("Reading TensorBoard files needs tensorboard: pip install tensorboard.") from error
    values: dict[int, dict[str, tuple[float, float]]] = {}
    for path in sorted(path for path in folder.rglob("events.out.tfevents.*") if path.is_file()):
        events = EventAccumulator(str(path), size_guidance={"scalars": 0})
        events.Reload()
        for tag in events.Tags()["scalars"]:
            for event in events.Scalars(tag):
                at = values.setdefault(event.step, {})
                if tag not in at or event.wall_time >= at[tag][0]:
                    at[tag] = (event.wall_time, event.value)
    for step in sorted(values):
        yield {"step": step} | {tag: value for tag, (_, value) in values[step].items()}


def _json_lines(path: Path) -> Log:
    entries: Entries = []
    settings: Mapping[str, Any] = {}
    skipped = 0
    is_journal = False
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            entry = json.loads(line.decode("utf-8", "replace").removeprefix("\ufeff"))
        except RecursionError as error:
            raise UnreadableSourceError(f"{path}:{number}: nested too deeply.") from error
        except ValueError as error:  # also of a number with thousands of digits
            if is_journal:  # whose lines a kill may tear
                skipped += 1
                continue
            if not line.endswith(b"\n"):  # the end of a file that is being written, or whose writer was killed
                break
            raise UnreadableSourceError(f"{path}:{number}: not JSON ({_reason(error)}).") from error
        if not isinstance(entry, dict):
            raise UnreadableSourceError(f"{path}:{number}: not a JSON object.")
        if "type" in entry and "time" in entry:
            is_journal, metrics = True, entry.get("metrics")
            if entry["type"] == "begin":
                settings = run_info(entry).config or settings
            elif entry["type"] == "metrics" and isinstance(metrics, dict):
                entries.append({"step": entry.get("step"), **metrics})
            elif entry["type"] == "metrics":
                skipped += 1
        else:
            entries.append(_flat(entry))
    return Log(entries, settings, skipped)


def _flat(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    inner = next((entry[name] for name in WITHIN if isinstance(entry.get(name), dict)), None)
    return entry if inner is None else {**inner, **entry}


def _printed(path: Path) -> Log:
    """What verl's console logger and transformers' trainers print, whatever stands between."""
    entries: Entries = []
    for _, raw in _lines(path):
        line = raw.decode("utf-8", "replace")
        if found := VERL.search(line):
            metrics = VERL_METRIC.finditer(found["metrics"])
            entries.append({"step": int(found["step"]), **{one["name"]: one["value"] for one in metrics}})
        for printed in TRANSFORMERS.findall(line):
            try:
                entries.append(ast.literal_eval(NOT_FINITE.sub(r"'\g<0>'", printed)))
            except (ValueError, SyntaxError):  # another program's words
                continue
    if not entries:
        raise UnreadableSourceError(f"{path}: no line like `step:1 - loss:0.5` or `{{'loss': 0.5}}`.")
    return Log(entries, {})


def _wandb(path: Path) -> Log:
    """What W&B keeps of a run on this machine, also of one that was never sent: a row for each call of its `log`.

    Raises:
        ImportError: wandb is not installed.
    """
    try:
        from wandb.proto.wandb_internal_pb2 import Record
    except ImportError as error:
        raise ImportError("Reading W&B's files needs wandb: pip install wandb.") from error
    content = path.read_bytes()
    if content[:4] != b":W&B":
        raise UnreadableSourceError(f"{path}: not W&B's.")
    entries: Entries = []
    for data in _records(content):
        record = Record.FromString(data)
        if record.HasField("history"):
            items = record.history.item
            entries.append({one.key or "/".join(one.nested_key): json.loads(one.value_json) for one in items})
    return Log(entries, {})


BLOCK_BYTES, HEADER = 1 << 15, struct.Struct("<IHB")
FULL, FIRST, LAST = 1, 2, 4


def _records(content: bytes) -> Iterator[bytes]:
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


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE_BYTES), b""), 1):
            if len(line) == LONGEST_LINE_BYTES:
                raise UnreadableSourceError(f"{path}:{number}: longer than {LONGEST_LINE_BYTES >> 20} MiB.")
            yield number, line


def _json(path: Path) -> Log:
    if path.stat().st_size > LARGEST_JSON_BYTES:
        raise UnreadableSourceError(f"{path}: larger than {LARGEST_JSON_BYTES >> 30} GiB; write it as JSON lines.")
    try:
        data = json.loads(path.read_bytes())
    except RecursionError as error:
        raise UnreadableSourceError(f"{path}: nested too deeply.") from error
    except ValueError as error:
        raise UnreadableSourceError(f"{path}: not JSON ({_reason(error)}).") from error
    settings: dict[str, Any] = {}
    if isinstance(data, dict) and isinstance(data.get("log_history"), list):
        settings = {name: data[name] for name in SETTINGS if name in data}
        data = data["log_history"]
    if not isinstance(data, list) or not all(isinstance(entry, dict) for entry in data):
        raise UnreadableSourceError(f"{path}: neither a trainer_state.json nor a list of log entries.")
    return Log(data, settings)


def _csv(path: Path) -> Log:
    limit = csv.field_size_limit(LONGEST_CELL_CHARACTERS)  # else 131,072: less than some completions
    number = 1
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines)
            entries: Entries = []
            for entry in reader:
                number = reader.line_num + 1
                entries.append(entry)
    except (csv.Error, ValueError) as error:
        raise UnreadableSourceError(f"{path}:{number}: not CSV ({_reason(error)}).") from error
    finally:
        csv.field_size_limit(limit)
    return Log(entries, {})


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8"
    return error.msg if isinstance(error, json.JSONDecodeError) else str(error).partition("\n")[0]
