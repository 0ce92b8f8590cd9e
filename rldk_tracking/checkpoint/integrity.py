"""Is everything there that was to be saved? From names, sizes and headers alone, before a single weight is read."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rldk_tracking.checkpoint.entries import Entry
from rldk_tracking.checkpoint.files import DamagedFileError, open_regular
from rldk_tracking.checkpoint.reader import Checkpoint
from rldk_tracking.metrics.layer_names import layer_of

Kind = Literal["corrupt", "incomplete", "changed", "disk"]

OPTIMIZER = ("optimizer.pt", "optimizer.bin", "optimizer_0")
SCHEDULER = ("scheduler.pt",)
RANDOM = ("rng_state.pth", "rng_state_0.pth")
PROGRESS = ("trainer_state.json",)
RESUME = {"optimizer": OPTIMIZER, "scheduler": SCHEDULER, "random": RANDOM, "progress": PROGRESS}
"""What a transformers Trainer reads when it resumes, and the names under which it may lie."""

MOST_LAYERS = 10_000
"""Layers that are named one by one where they are missing."""
LONGEST_NUMBER = 18
"""Digits."""
LEAST_SAVES = 3
"""Saves for which the disk must have room."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with a checkpoint.

    Attributes:
        kind: "corrupt" (cannot be read), "incomplete" (lacks something), "changed" (another type or shape than
            before), "disk" (the next saves will fail).
        name: of the file or tensor.
        message: one sentence.
    """

    kind: Kind
    name: str
    message: str


def check(
    checkpoint: Checkpoint,
    previous: Mapping[str, Entry] | None = None,
    *,
    resumable: bool | None = None,
) -> list[Problem]:
    """What is wrong with the files of an opened checkpoint.

    Args:
        checkpoint: opened; its weights are not read.
        previous: the tensors of an earlier checkpoint of the same run.
        resumable: whether it is to hold the state for a resume; by default where it holds a part of it.
    """
    problems = [Problem("corrupt", name, message) for name, message in checkpoint.damaged.items()]
    problems += [Problem("incomplete", name, f"{name} is missing.") for name in checkpoint.missing]
    problems += _promised(checkpoint)
    problems += _layers(checkpoint)
    if previous is not None:
        problems += _against(checkpoint, previous)
    return problems + _state(checkpoint.path, resumable)


def disk(path: Path, saves_left: int | None = None, size: int | None = None) -> tuple[float, Problem | None]:
    """For how many further saves of this size the disk has room, and the problem where that is too few.

    Args:
        path: the checkpoint's folder.
        saves_left: how many saves the run will still keep, where that is known; at least LEAST_SAVES by default.
        size: bytes of one save; by default what this one takes.
    """
    size = folder_bytes(path) if size is None else size
    free = shutil.disk_usage(path).free
    room = free / max(1, size)
    wanted = LEAST_SAVES if saves_left is None else saves_left
    if room >= wanted:
        return room, None
    message = f"The disk has room for {int(room)} more saves of this size, and {wanted} are to come."
    return room, Problem("disk", str(path.name), message)


def folder_bytes(path: Path) -> int:
    """Size of all files below a folder; a file that vanishes meanwhile counts nothing."""
    total = 0
    for file in path.rglob("*") if path.is_dir() else [path]:
        try:
            total += file.stat().st_size if file.is_file() else 0
        except OSError:
            continue
    return total


def _promised(checkpoint: Checkpoint) -> list[Problem]:
    """Tensors of the index that are in no file; those of a file that is gone or damaged are counted with it."""
    gone = {*checkpoint.missing, *checkpoint.damaged}
    return [
        Problem("incomplete", name, f"{name} is in the index and not in {file}.")
        for name, file in checkpoint.promised.items()
        if name not in checkpoint.entries and file not in gone
    ]


def _layers(checkpoint: Checkpoint) -> list[Problem]:
    """Blocks that the configuration promises. Known where the names are numbered and the last file was read."""
    wanted = checkpoint.config.get("num_hidden_layers", checkpoint.config.get("n_layer"))
    if type(wanted) is not int or checkpoint.is_adapter or checkpoint.missing or checkpoint.damaged:
        return []
    numbered: dict[str, set[int]] = {}
    for name in checkpoint.entries:
        prefix, _, number = layer_of(name).rpartition(".")
        if (index := number_in(number)) is not None:
            numbered.setdefault(prefix, set()).add(index)
    if not numbered:
        return []
    prefix = max(numbered, key=lambda key: len(numbered[key]))
    there = sum(index < wanted for index in numbered[prefix])
    if wanted - there > MOST_LAYERS:  # a number that no model has
        return [Problem("incomplete", prefix, f"{there} of {wanted} layers are there.")]
    lost = sorted(set(range(wanted)) - numbered[prefix]) if wanted > there else []
    return [Problem("incomplete", f"{prefix}.{n}", f"{prefix}.{n} of {wanted} layers is missing.") for n in lost]


def number_in(text: str) -> int | None:
    """The number that a part of a name is; None for other parts."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= LONGEST_NUMBER else None


def _against(checkpoint: Checkpoint, previous: Mapping[str, Entry]) -> list[Problem]:
    problems = []
    gone = {*checkpoint.missing, *checkpoint.damaged}
    for name, before in previous.items():
        now = checkpoint.entries.get(name)
        if now is None:
            if not gone and name not in checkpoint.promised:
                problems.append(Problem("incomplete", name, f"{name} was in the checkpoint before."))
        elif now.dtype != before.dtype:
            problems.append(Problem("changed", name, f"{name} is {now.dtype} and was {before.dtype}."))
        elif now.shape != before.shape:
            problems.append(Problem("changed", name, f"{name} is {list(now.shape)} and was {list(before.shape)}."))
    return problems


def _state(path: Path, resumable: bool | None) -> list[Problem]:
    """What a resume needs. DeepSpeed and sharded FSDP keep it elsewhere, and are left alone."""
    if not path.is_dir():
        return []
    names = {file.name for file in path.iterdir()}
    if any(name.startswith(("global_step", "pytorch_model_fsdp")) for name in names):
        return []
    found = {part: next((name for name in choices if name in names), None) for part, choices in RESUME.items()}
    if resumable is None:
        resumable = found["optimizer"] is not None or found["scheduler"] is not None or found["random"] is not None
    problems = []
    for part, name in found.items():
        if name is None:
            if resumable:
                wanted = RESUME[part][0]
                problems.append(Problem("incomplete", wanted, f"{wanted} is missing: no exact resume is possible."))
        elif name.endswith((".pt", ".pth", ".bin")):
            problems += _zipped(path / name)
    return problems


def _zipped(file: Path) -> list[Problem]:
    """What is wrong with one of torch's files, as far as its ends tell."""
    try:
        with open_regular(file) as stream:
            whole = zipfile.is_zipfile(stream)
    except (DamagedFileError, OSError) as error:
        return [Problem("corrupt", file.name, str(error))]
    return [] if whole else [Problem("corrupt", file.name, f"{file.name} is truncated or no file of torch.")]
