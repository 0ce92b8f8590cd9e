"""The runs of one file: told apart where a training begins again, and one of them chosen."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rldk_tracking.history.formats.content import Entries
from rldk_tracking.history.rows import STEP_NAMES, runs_in
from rldk_tracking.history.run_history import UnreadableSourceError
from rldk_tracking.sources.logs import number

OF_ALL = re.compile(r"(\d+)/(\d+)")
"""A step and how many there will be, as ms-swift writes them: "2/720"."""
COUNTED = ("global_step/max_steps", "iteration")
COUNTERS = (*STEP_NAMES, "epoch")


def with_step(entries: Iterable[Mapping[str, Any]]) -> Entries:
    """Entries whose step and number of steps stand under `step` and `max_steps`.

    LLaMA-Factory writes `current_steps` of `total_steps`, and a preference trainer's `rewards/accuracies` as
    `accuracy`; ms-swift writes both steps in one text.

    >>> with_step([{"reward": 0.5, "global_step/max_steps": "2/720"}])
    [{'reward': 0.5, 'global_step/max_steps': '2/720', 'step': 2, 'max_steps': 720}]
    """
    found: Entries = []
    for entry in entries:
        if "current_steps" in entry and "total_steps" in entry:
            entry = {**entry, "step": entry["current_steps"], "max_steps": entry["total_steps"]}
            if "accuracy" in entry:
                entry["rewards/accuracies"] = entry.pop("accuracy")
        for name in COUNTED:
            match = OF_ALL.fullmatch(text) if isinstance(text := entry.get(name), str) else None
            if match is not None:
                entry = {**entry, "step": int(match[1]), "max_steps": int(match[2])}
        found.append(entry)
    return found


def settings_of(entries: Entries) -> dict[str, Any]:
    """The number of steps, where the last entry says it."""
    last = entries[-1].get("max_steps") if entries else None
    return {"max_steps": last} if isinstance(last, int) and last > 0 else {}


def told_apart(runs: Mapping[str, Entries]) -> dict[str, Entries]:
    """Runs whose entries begin anew as runs of their own, `NAME.1`, `NAME.2`, or "1", "2" where there is no name.

    Before, those that a column names are told apart, see `rldk_tracking.history.rows.runs_in`.

    One begins where an entry like the run's first stands at a step below the last one: no later than the run's first,
    or after transformers' summary of a training. Steps that are counted within epochs are one run, and so is a run that
    went on from a checkpoint.
    """
    found: dict[str, Entries] = {}
    named = [(".".join(filter(None, (name, run))), rows) for name, all_ in runs.items() for run, rows in runs_in(all_)]
    for name, entries in named:
        parts = list(_parts(entries))
        if len(parts) == 1:
            found[name] = parts[0]
        else:
            found |= {f"{name}.{place}" if name else str(place): part for place, part in enumerate(parts, 1)}
    return found


def _parts(entries: Entries) -> Iterator[Entries]:
    part: Entries = []
    counter = ""
    began = before = -math.inf
    for entry in entries:
        if not counter:
            counter = next((name for name in COUNTERS if number(entry.get(name)) is not None), "")
            began = number(entry.get(counter)) or 0.0
        at = number(entry.get(counter))
        if at is not None and at < before and _begins(entry, at, part, began):
            yield part
            part, began = [], at
        before = before if at is None else at
        part.append(entry)
    yield part


def _begins(entry: Mapping[str, Any], at: float, part: Entries, began: float) -> bool:
    """Whether an entry that stands at a lower step than the one before is a new run's."""
    if len(entry.keys() & part[0].keys()) < len(entry) / 2:  # an evaluation's, say
        return False
    epoch, before = number(entry.get("epoch")), number(part[-1].get("epoch"))
    if epoch is not None and before is not None and epoch > before:
        return False
    return at <= began or "train_runtime" in part[-1]


def chosen(runs: Mapping[str, Entries], name: str, source: object) -> str:
    """The run of that name; without one the longest, the first of several.

    Raises:
        UnreadableSourceError: there is none of that name.
    """
    if name and name not in runs:
        raise UnreadableSourceError(f"{source}: no run {name!r}; there are {', '.join(filter(None, runs)) or 'none'}.")
    return name or max(runs, key=lambda run: len(runs[run]), default="")
