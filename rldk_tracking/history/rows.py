"""Which rows of a past log are one run's training, and at which step each was."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, pairwise
from typing import Any, TypeVar

from rldk_tracking.history.handwritten import plain
from rldk_tracking.sources.logs import number

STEP_NAMES = ("step", "global_step", "train/global_step", "eval/global_step", "_step", "Step", "iteration")
OTHER_STEP_NAMES = frozenset({"step", "global_step", "iteration", "iter", "update", "train_step", "training_step"})
"""In any spelling, where none of the first is there."""
RUN_NAMES = ("run", "run_id", "run_name", "seed", "name", "experiment", "experiment_name", "exp_name", "trial")
"""Columns by which several runs in one file are told apart."""
KIND_NAMES = frozenset({"split", "phase", "mode", "stage", "set", "type", "kind", "event", "name"})
TRAINED = frozenset({"train", "training"})
EVALUATED = frozenset({"eval", "evaluation", "val", "valid", "validation", "test", "dev"})
CONFIGURED = frozenset({"config", "configuration", "args", "hparams", "hyperparameters", "settings", "header"})
"""Columns that say what a row is, and their words."""
SETTINGS = frozenset(
    {"batch_size", "per_device_train_batch_size", "gradient_accumulation_steps", "epochs", "num_epochs", "max_steps",
     "num_train_epochs", "total_steps", "num_steps", "warmup_steps", "seed", "model", "model_name", "dataset", "beta",
     "num_generations", "group_size", "kl_coef", "clip_eps", "max_new_tokens", "max_completion_length", "temperature"}
)  # fmt: skip
"""Two of them, without a step, are a row of the configuration."""

Row = TypeVar("Row", bound=Mapping[str, Any])


def step_names(names: Iterable[str]) -> tuple[str, ...]:
    """Under which of a log's columns its step may stand, the first of them first."""
    return (*STEP_NAMES, *(name for name in names if name not in STEP_NAMES and plain(name) in OTHER_STEP_NAMES))


def step_of(entry: Mapping[str, Any], names: Sequence[str]) -> int | None:
    """The step of a row, None where it has none."""
    for name in names:
        value = number(entry.get(name))
        if value is not None and value == value and abs(value) < 2**53:
            return int(value)
    return None


def of_training(entries: Sequence[dict[str, Any]], names: Sequence[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows without those of a configuration, numbers of a row that says it is an evaluation under `eval_`.

    Returns:
        The rows, changed in place where they are an evaluation's, and sentences on what was left out.
    """
    columns = set[str]().union(*entries)
    kinds = [name for name in columns if plain(name) in KIND_NAMES]
    settings = [name for name in columns if plain(name) in SETTINGS]
    have_steps = any(step_of(entry, names) is not None for entry in entries)
    kept: list[dict[str, Any]] = []
    for entry in entries:
        said = {str(entry[name]).strip().lower() for name in kinds if isinstance(entry.get(name), str)}
        set_up = sum(entry.get(name) not in (None, "") for name in settings) > 1
        if said & CONFIGURED or (have_steps and set_up and step_of(entry, names) is None):
            continue
        if said & EVALUATED:
            evaluated = {name if name in names else f"eval_{plain(name)}": value for name, value in entry.items()}
            entry.clear()
            entry.update(evaluated)
        kept.append(entry)
    left_out = len(entries) - len(kept)
    rows = "1 row is" if left_out == 1 else f"{left_out} rows are"
    return kept, [f"{rows} of the configuration, and not read"] if left_out else []


def runs_in(entries: list[Row]) -> list[tuple[str, list[Row]]]:
    """The runs that a column of `RUN_NAMES` names, where the steps of two overlap or each stands in one piece.

    Where there is no such column it is one run, without a name. A training that begins again is told apart by
    `rldk_tracking.history.formats.runs`.

    >>> [(name, len(rows)) for name, rows in runs_in([{"step": at // 2, "seed": at % 2} for at in range(4)])]
    [('seed=0', 2), ('seed=1', 2)]
    """
    columns = list(dict.fromkeys(name for kind, _ in groupby(map(tuple, entries)) for name in kind))
    names = step_names(columns)
    for column in RUN_NAMES:
        if column not in columns:
            continue
        found = [str(entry.get(column, "")) for entry in entries]
        named: dict[str, list[int]] = {}
        for place, value in enumerate(found):
            named.setdefault(value, []).append(place)
        if len(named) < 2 or "" in named or len(entries) < 2 * len(named):
            continue
        if any(value.lower() in TRAINED | EVALUATED for value in named):
            continue
        steps = [{step_of(entries[place], names) for place in places} - {None} for places in named.values()]
        overlap = sum(map(len, steps)) > len(set().union(*steps))
        if overlap or (not any(steps) and len(list(groupby(found))) == len(named)):
            return [(f"{column}={value}", [entries[place] for place in places]) for value, places in named.items()]
    return [("", entries)]


def steps_of(
    entries: Sequence[Mapping[str, Any]], names: Sequence[str], places: Sequence[int]
) -> tuple[list[int], list[str]]:
    """The step of each row, its place where it has none, and sentences on steps that are not what they should be.

    Args:
        entries: of one run.
        names: under which a step may stand.
        places: of the rows in the file.
    """
    steps = [step_of(entry, names) for entry in entries]
    if all(step is None for step in steps):
        return list(places), ["no step column: rows are counted"]
    known = [(step, place) for step, place in zip(steps, places, strict=True) if step is not None]
    falls = [(before, after, place) for (before, _), (after, place) in pairwise(known) if after < before]
    counted = [place if step is None else step for step, place in zip(steps, places, strict=True)]
    if not falls:
        return counted, []
    before, after, place = falls[0]
    at_first = min(step for step, _ in known)
    if known[0][0] == at_first and all(fallen == at_first for _, fallen, _ in falls):
        return list(places), ["the step starts again, as in each epoch: rows are counted"]
    return counted, [f"the step falls back, first from {before} to {after} in row {place + 1}: a training resumed?"]
