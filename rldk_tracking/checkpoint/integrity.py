"""Is everything there that was to be saved? From names, sizes and headers alone, before a single weight is read."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rldk_tracking.checkpoint.entries import Entry
from rldk_tracking.checkpoint.reader import Checkpoint
from rldk_tracking.metrics.layer_names import layer_of

Kind = Literal["corrupt", "incomplete", "changed", "disk"]

OPTIMIZER = ("optimizer.pt", "optimizer.bin", "optimizer_0")
SCHEDULER = ("scheduler.pt",)
RANDOM = ("rng_state.pth", "rng_state_0.pth")
PROGRESS = ("trainer_state.json",)
RESUME = {"optimizer": OPTIMIZER, "scheduler": SCHEDULER, "random": RANDOM, "progress": PROGRESS}
"""What a transformers Trainer reads when it resumes, and the names under which it may lie."""

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
    if not isinstance(wanted, int) or checkpoint.is_adapter or checkpoint.missing or checkpoint.damaged:
        return []
    numbered: dict[str, set[int]] = {}
    for name in checkpoint.entries:
        prefix, _, number = layer_of(name).rpartition(".")
        if number.isdigit():
            numbered.setdefault(prefix, set()).add(int(number))
    if not numbered:
        return []
    prefix = max(numbered, key=lambda key: len(numbered[key]))
    lost = sorted(set(range(wanted)) - numbered[prefix])
    return [Problem("incomplete", f"{prefix}.{n}", f"{prefix}.{n} of {wanted} layers is missing.") for n in lost]


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
        elif name.endswith((".pt", ".pth", ".bin")) and not zipfile.is_zipfile(path / name):
            problems.append(Problem("corrupt", name, f"{name} is truncated or no file of torch."))
    return problems
