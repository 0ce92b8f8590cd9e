"""Reads past runs from whatever they left behind.

| source | what is read |
|---|---|
| a `trainer_state.json`, or a folder with one, also inside `checkpoint-*` | its log history |
| `*.jsonl`, `*.json`, `*.csv` | log entries; our own journal's rows as they are |
| a TensorBoard folder (`events.out.tfevents.*`) | scalars, see `rldk_tracking.history.event_files` |
| TRL's completions (`completions/*.parquet`) | rewards and ties, see `rldk_tracking.history.completions` |
| `mlflow:RUN_ID`, `wandb:ENTITY/PROJECT/RUN` | metrics, see `rldk_tracking.history.stores` |
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rldk_tracking.history.run_history import History, UnreadableSourceError, history
from rldk_tracking.journal.journal import journals_in


def read(source: str | Path, aliases: Mapping[str, str] | None = None) -> History:
    """The rows of a past run.

    Args:
        source: see the table above.
        aliases: names in the source to catalogue keys, where the source has names of its own.

    Raises:
        UnreadableSourceError: there is nothing to read.
    """
    name = str(source)
    if name.startswith(("mlflow:", "wandb:")):
        from rldk_tracking.history.stores import read_store

        return read_store(name, aliases)
    path = Path(source)
    if path.is_dir():
        return _read_folder(path, aliases)
    if not path.is_file():
        raise UnreadableSourceError(f"{source}: no such file or folder.")
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as lines:
            return history(name, csv.DictReader(lines), aliases=aliases)
    if path.suffix == ".jsonl":
        return history(name, _json_lines(path), aliases=aliases)
    if path.suffix == ".json":
        return _read_json(path, aliases)
    raise UnreadableSourceError(f"{source}: known are .json, .jsonl and .csv files, and folders.")


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    is_journal = False
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number_of_line, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
            except RecursionError as error:
                raise UnreadableSourceError(f"{path}:{number_of_line}: nested too deeply.") from error
            except json.JSONDecodeError as error:
                if is_journal:  # whose lines a kill may tear
                    continue
                if not line.endswith("\n"):  # the end of a file that is being written, or whose writer was killed
                    return
                raise UnreadableSourceError(f"{path}:{number_of_line}: not JSON ({error.msg}).") from error
            if not isinstance(entry, dict):
                raise UnreadableSourceError(f"{path}:{number_of_line}: not a JSON object.")
            if "type" in entry and "time" in entry:
                is_journal, metrics = True, entry.get("metrics")
                if entry["type"] == "metrics" and isinstance(metrics, dict):
                    yield {"step": entry.get("step"), **metrics}
            else:
                yield entry


def _read_json(path: Path, aliases: Mapping[str, str] | None) -> History:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UnreadableSourceError(f"{path}: not JSON ({error}).") from error
    settings: dict[str, Any] = {}
    if isinstance(data, dict) and isinstance(data.get("log_history"), list):
        settings = {name: data[name] for name in ("max_steps", "num_train_epochs", "train_batch_size") if name in data}
        data = data["log_history"]
    if not isinstance(data, list) or not all(isinstance(entry, dict) for entry in data):
        raise UnreadableSourceError(f"{path}: neither a trainer_state.json nor a list of log entries.")
    return history(str(path), data, settings, aliases)


def _read_folder(folder: Path, aliases: Mapping[str, str] | None) -> History:
    states = [folder / "trainer_state.json", *folder.glob("checkpoint-*/trainer_state.json")]
    states = [state for state in states if state.is_file()]
    if states:
        return _read_json(max(states, key=_progress), aliases)
    if any(folder.rglob("events.out.tfevents.*")):
        from rldk_tracking.history.event_files import read_events

        return history(str(folder), read_events(folder), aliases=aliases)
    for completions in (folder, folder / "completions"):
        if any(completions.glob("*.parquet")):
            from rldk_tracking.history.completions import read_completions

            return history(str(folder), read_completions(completions))
    journals = [path for place in ("", "_rldk", "rldk") for path in journals_in(folder / place)[-1:]]
    journals += sorted(folder.glob("*.jsonl"))
    if journals:
        return read(journals[0], aliases)
    raise UnreadableSourceError(
        f"{folder}: no trainer_state.json, checkpoint-*, events.out.tfevents.*, completions/*.parquet or *.jsonl."
    )


def _progress(state: Path) -> tuple[int, bool]:
    """The step that a checkpoint's folder is named after; the state beside the checkpoints is the latest."""
    name = state.parent.name.removeprefix("checkpoint-")
    return (int(name) if name.isdigit() else 2**62, True)
