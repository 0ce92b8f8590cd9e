"""One look at one checkpoint: its files, its tensors, and how far they are from those of other checkpoints."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rldk_tracking.checkpoint import integrity
from rldk_tracking.checkpoint.adapter import change_norms, change_ratio
from rldk_tracking.checkpoint.entries import DamagedFileError, Entry
from rldk_tracking.checkpoint.integrity import Problem
from rldk_tracking.checkpoint.reader import Checkpoint
from rldk_tracking.checkpoint.spectrum import spectral_norm
from rldk_tracking.checkpoint.statistics import Drift, Source, TensorStatistics, Workspace, measure
from rldk_tracking.metrics.layer_names import layer_of

Level = Literal["light", "standard", "full"]


class ScanCancelledError(Exception):
    """The scan was told to stop."""


@dataclass
class Scan:
    """What was found.

    Attributes:
        path: the checkpoint.
        step: from a folder name `checkpoint-<step>`, None without one.
        compared: labels of the other checkpoints, in the order of each tensor's drifts.
        entries: the tensors that are there.
        tensors: statistics of those with floating numbers; of this rank's share until the ranks' scans are merged.
        problems: what is wrong with the files.
        nbytes: size of the folder.
        seconds: how long the scan took.
        adapter_norm: of the change that a LoRA adapter makes, None for other checkpoints.
        adapter_ratio: of that to the weights it changes, where the reference holds them.
        vectors: right singular vectors, to start the next scan from.
    """

    path: Path
    step: int | None = None
    compared: tuple[str, ...] = ()
    entries: dict[str, Entry] = field(default_factory=dict)
    tensors: dict[str, TensorStatistics] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    nbytes: int = 0
    seconds: float = 0.0
    adapter_norm: float | None = None
    adapter_ratio: float | None = None
    vectors: dict[str, NDArray[np.float32]] = field(default_factory=dict, repr=False)

    @property
    def nonfinite(self) -> list[str]:
        """Tensors with a NaN or an infinity."""
        return [name for name, found in self.tensors.items() if not found.finite]

    def drift(self, label: str, layer: str | None = None, *, matrices: bool = False) -> Drift | None:
        """Of all tensors or of one layer's, from the checkpoint with this label; None without a common tensor.

        With `matrices`, of those with at least two dimensions: the gains of normalisation layers, all near 1, are much
        the same in any two models.
        """
        if label not in self.compared:
            return None
        index = self.compared.index(label)
        parts = [
            found.drift[index]
            for name, found in self.tensors.items()
            if len(found.drift) > index
            and (layer is None or layer_of(name) == layer)
            and (not matrices or len(self.entries[name].shape) > 1)
        ]
        known = [part for part in parts if part is not None]
        if not known:
            return None
        return Drift(
            distance=math.sqrt(sum(part.distance**2 for part in known)),
            norm=math.sqrt(sum(part.norm**2 for part in known)),
            product=sum(part.product for part in known),
            own=math.sqrt(sum(part.own**2 for part in known)),
        )

    def layers(self) -> dict[str, list[TensorStatistics]]:
        """Layer to its tensors, in the order of the file."""
        found: dict[str, list[TensorStatistics]] = {}
        for name, statistics in self.tensors.items():
            found.setdefault(layer_of(name), []).append(statistics)
        return found

    def unchanged(self, label: str) -> bool | None:
        """Whether every tensor is that of the other checkpoint; None where nothing can be compared."""
        drift = self.drift(label)
        return None if drift is None else drift.distance == 0.0


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
                    _look_at_adapter(found, checkpoint, others[labels["reference"]] if "reference" in labels else None)
                _measure_all(found, checkpoint, others, level, share, vectors or {}, cancelled)
        finally:
            for other in others:
                other.close()
        for name, statistics in found.tensors.items():
            found.tensors[name] = replace(statistics, drift=tuple(statistics.drift[at] for at in labels.values()))
    found.seconds = time.perf_counter() - began
    return found


def step_of(path: Path) -> int | None:
    """200 for `.../checkpoint-200`, None for other names."""
    prefix, _, number = path.name.rpartition("-")
    return int(number) if prefix == "checkpoint" and number.isdigit() else None


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


def _measure_all(
    found: Scan,
    checkpoint: Checkpoint,
    others: list[Checkpoint],
    level: Level,
    share: tuple[int, int],
    vectors: Mapping[str, NDArray[np.float32]],
    cancelled: Callable[[], bool],
) -> None:
    workspace = Workspace()
    mine = set(shares(checkpoint.entries, share[1])[share[0]])
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


def _look_at_adapter(found: Scan, checkpoint: Checkpoint, base: Checkpoint | None) -> None:
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
