"""One look at one checkpoint: its files, its tensors, and how far they are from those of other checkpoints."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rldk_tracking.checkpoint import integrity
from rldk_tracking.checkpoint.entries import Entry
from rldk_tracking.checkpoint.findings import Level, Scan, step_of
from rldk_tracking.checkpoint.measuring import compare_all, look_at_adapter, measure_all
from rldk_tracking.checkpoint.reader import Checkpoint


def scan(
    path: str | os.PathLike[str],
    against: Mapping[str, str | os.PathLike[str]] | None = None,
    *,
    level: Level = "standard",
    share: tuple[int, int] = (0, 1),
    resumable: bool | None = None,
    vectors: Mapping[str, NDArray[np.float32]] | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Scan:
    """Read a checkpoint and measure it.

    Args:
        path: a folder, or one file of weights.
        against: label to another checkpoint. The integrity check compares with the one labelled "previous".
        level: "light" looks at the files alone, "standard" reads every tensor once, "full" adds spectral norms.
        share: (rank, ranks): this rank's part of the tensors; the files are checked by every rank.
        resumable: whether state for a resume is expected, see `integrity.check`.
        vectors: of an earlier scan.
        cancelled: asked before each tensor.

    Raises:
        FileNotFoundError: there are no weights at `path`. A checkpoint to compare with that is gone is left out.
        ScanCancelledError: `cancelled` said so.
    """
    began = time.perf_counter()
    found = Scan(Path(path), step_of(Path(path)))
    with Checkpoint.open(path) as checkpoint:
        labels, others = _open_others(against or {})
        try:
            found.entries = dict(checkpoint.entries)
            found.compared = tuple(labels)
            previous = others[labels["previous"]].entries if "previous" in labels else None
            found.problems = integrity.check(checkpoint, previous, resumable=resumable)
            found.nbytes = integrity.folder_bytes(found.path)
            if level != "light":
                if checkpoint.is_adapter and share[0] == 0:
                    look_at_adapter(found, checkpoint, others[labels["reference"]] if "reference" in labels else None)
                names = shares(checkpoint.entries, share[1])[share[0]]
                measure_all(found, checkpoint, others, level, names, vectors or {}, cancelled)
                compare_all(found, checkpoint, {label: others[at] for label, at in labels.items()}, names)
        finally:
            for other in others:
                other.close()
        for name, statistics in found.tensors.items():
            found.tensors[name] = replace(statistics, drift=tuple(statistics.drift[at] for at in labels.values()))
    found.seconds = time.perf_counter() - began
    return found


def shares(entries: Mapping[str, Entry], ranks: int) -> list[list[str]]:
    """The tensors divided among ranks: each, largest first, to the rank with the fewest bytes so far."""
    parts: list[list[str]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for name in sorted(entries, key=lambda name: (-entries[name].nbytes, name)):
        rank = loads.index(min(loads))
        parts[rank].append(name)
        loads[rank] += entries[name].nbytes
    return parts


def load_vectors(file: Path | None) -> dict[str, NDArray[np.float32]]:
    """What `save_vectors` wrote; empty where there is no such file."""
    if file is None or not file.exists():
        return {}
    with np.load(file, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def save_vectors(file: Path, vectors: Mapping[str, NDArray[np.float32]]) -> None:
    """Keep singular vectors for the next scan."""
    with file.open("wb") as stream:
        np.savez(stream, **dict(vectors))  # type: ignore[arg-type]


def _open_others(against: Mapping[str, str | os.PathLike[str]]) -> tuple[dict[str, int], list[Checkpoint]]:
    """Label to position, and the opened checkpoints; one that bears two labels is opened, and read, once."""
    labels: dict[str, int] = {}
    positions: dict[Path, int] = {}
    opened: list[Checkpoint] = []
    for label, path in against.items():
        place = Path(path).resolve()
        if place not in positions:
            try:
                opened.append(Checkpoint.open(place))
            except FileNotFoundError:
                continue
            positions[place] = len(opened) - 1
        labels[label] = positions[place]
    return labels, opened
