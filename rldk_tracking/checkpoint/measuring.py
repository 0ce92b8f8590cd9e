"""Every tensor of a checkpoint, against the same one of other checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rldk_tracking.checkpoint.adapter import change_norms, change_ratio
from rldk_tracking.checkpoint.entries import DamagedFileError, Entry
from rldk_tracking.checkpoint.findings import Level, Scan
from rldk_tracking.checkpoint.integrity import Problem
from rldk_tracking.checkpoint.reader import Checkpoint
from rldk_tracking.checkpoint.spectrum import spectral_norm
from rldk_tracking.checkpoint.statistics import BLOCK, Source, TensorStatistics, Workspace, measure


class ScanCancelledError(Exception):
    """The scan was told to stop."""


def measure_all(
    found: Scan,
    checkpoint: Checkpoint,
    others: list[Checkpoint],
    level: Level,
    names: Sequence[str],
    vectors: Mapping[str, NDArray[np.float32]],
    cancelled: Callable[[], bool],
) -> None:
    """Statistics of those of the named tensors that have numbers, into `found`."""
    workspace = Workspace()
    mine = set(names)
    broken: set[str] = set()
    for name, entry in checkpoint.entries.items():
        if name not in mine or entry.file.name in broken or not checkpoint.has_numbers(name):
            continue
        if cancelled():
            raise ScanCancelledError(str(found.path))
        sources = [_source(other, name, workspace) if _comparable(other, name, entry) else None for other in others]
        try:
            statistics = measure(_source(checkpoint, name, workspace), sources, entry.numel, workspace)
            if level == "full":
                statistics = _with_spectrum(statistics, checkpoint, entry, found, vectors)
        except DamagedFileError as error:
            broken.add(entry.file.name)
            found.problems.append(Problem("corrupt", entry.file.name, str(error)))
        else:
            found.tensors[name] = statistics


def compare_all(found: Scan, checkpoint: Checkpoint, others: Mapping[str, Checkpoint], names: Sequence[str]) -> None:
    """What has no norm is equal or not."""
    for name in (name for name in names if not checkpoint.has_numbers(name) and checkpoint.has_elements(name)):
        entry = checkpoint.entries[name]
        for label, other in others.items():
            before = other.entries.get(name)
            if before is None or (before.dtype, before.shape) != (entry.dtype, entry.shape):
                continue
            pairs = zip(checkpoint.blocks(name, BLOCK), other.blocks(name, BLOCK), strict=True)
            try:
                equal = all(np.array_equal(own, old) for own, old in pairs)
            except DamagedFileError:  # which the integrity check of the next scan names
                continue
            found.differing[label] = found.differing.get(label, 0) + (not equal)


def look_at_adapter(found: Scan, checkpoint: Checkpoint, base: Checkpoint | None) -> None:
    """What a LoRA adapter adds, and how much that is of the weights that it is added to."""
    norms = change_norms(checkpoint)
    if norms:
        found.adapter_norm = math.sqrt(sum(norm**2 for norm in norms.values()))
        found.adapter_ratio = None if base is None else change_ratio(norms, base)


def _source(checkpoint: Checkpoint, name: str, workspace: Workspace) -> Source:
    return Source(checkpoint.blocks(name, workspace.block), checkpoint.entries[name].dtype)


def _comparable(other: Checkpoint, name: str, entry: Entry) -> bool:
    before = other.entries.get(name)
    return before is not None and before.shape == entry.shape and other.has_numbers(name)


def _with_spectrum(
    statistics: TensorStatistics,
    checkpoint: Checkpoint,
    entry: Entry,
    found: Scan,
    vectors: Mapping[str, NDArray[np.float32]],
) -> TensorStatistics:
    if not statistics.finite:
        return statistics
    pair = spectral_norm(
        lambda size: checkpoint.blocks(entry.name, size), entry.dtype, entry.shape, vectors.get(entry.name)
    )
    if pair is None:
        return statistics
    largest, found.vectors[entry.name] = pair
    return statistics.with_spectrum(largest)
