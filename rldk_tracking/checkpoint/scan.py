"""One look at one checkpoint: its files, its tensors, and how far they are from those of other checkpoints."""

from __future__ import annotations

import os
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rldk_tracking.checkpoint import integrity
from rldk_tracking.checkpoint.adapter import PREFIX, measure_adapter
from rldk_tracking.checkpoint.entries import Array, Entry, decode
from rldk_tracking.checkpoint.files import DamagedFileError, open_regular
from rldk_tracking.checkpoint.findings import Level, Scan, step_of
from rldk_tracking.checkpoint.integrity import Problem
from rldk_tracking.checkpoint.reader import Checkpoint
from rldk_tracking.checkpoint.statistics import BLOCK, Source, TensorStatistics, Workspace, measure


def scan(
    path: str | os.PathLike[str],
    against: Mapping[str, str | os.PathLike[str]] | None = None,
    *,
    level: Level = "standard",
    resumable: bool | None = None,
    vectors: Mapping[str, NDArray[np.float32]] | None = None,
) -> Scan:
    """Read a checkpoint and measure it.

    Args:
        path: a folder, or one file of weights.
        against: label to another checkpoint. The integrity check compares with the one labelled "previous".
        level: "light" looks at the files alone, "standard" reads every tensor once, "full" adds spectral norms.
        resumable: whether state for a resume is expected, see `integrity.check`.
        vectors: of an earlier scan.

    Raises:
        FileNotFoundError: there are no weights at `path`. A checkpoint to compare with that is gone is left out.
        ImportError: the weights are pickles, and torch is not installed.
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
                if checkpoint.is_adapter:
                    _measure_adapter(found, checkpoint, others, labels.get("reference"))
                _measure_all(found, checkpoint, others, level, vectors or {})
                _compare_all(found, checkpoint, {label: others[at] for label, at in labels.items()})
        finally:
            for other in others:
                other.close()
        for name, statistics in found.tensors.items():
            found.tensors[name] = replace(statistics, drift=tuple(statistics.drift[at] for at in labels.values()))
        found.changes = {
            module: tuple(drifts[at] for at in labels.values()) for module, drifts in found.changes.items()
        }
    found.seconds = time.perf_counter() - began
    return found


def load_vectors(file: Path | None) -> dict[str, NDArray[np.float32]]:
    """What `save_vectors` wrote; empty where there is no such file.

    Raises:
        DamagedFileError: the file is something else.
        OSError: it cannot be read.
    """
    if file is None or not file.exists():
        return {}
    with open_regular(file) as stream:
        try:
            archive = np.load(stream, allow_pickle=False)
            return {name: archive[name].astype(np.float32) for name in archive.files}
        except (ValueError, TypeError, AttributeError, EOFError, KeyError, zipfile.BadZipFile) as error:
            raise DamagedFileError(f"{file} holds no singular vectors.") from error


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
        resolved = Path(path).resolve()
        if resolved not in positions:
            try:
                opened.append(Checkpoint.open(resolved))
            except (OSError, ImportError):
                continue
            positions[resolved] = len(opened) - 1
        labels[label] = positions[resolved]
    return labels, opened


def _measure_all(
    found: Scan,
    checkpoint: Checkpoint,
    others: list[Checkpoint],
    level: Level,
    vectors: Mapping[str, NDArray[np.float32]],
) -> None:
    """Statistics of the tensors that have numbers, into `found`."""
    workspace = Workspace()
    broken: set[str] = set()
    for name, entry in checkpoint.entries.items():
        if entry.file.name in broken or not checkpoint.has_numbers(name):
            continue
        matches = [(other, _counterpart(other, name, entry)) for other in others]
        sources = [None if match is None else _source(other, match, workspace) for other, match in matches]
        try:
            statistics = measure(_source(checkpoint, name, workspace), sources, entry.numel, workspace)
            if level == "full":
                statistics = _with_spectrum(statistics, checkpoint, entry, found, vectors)
        except DamagedFileError as error:
            broken.add(entry.file.name)
            found.problems.append(Problem("corrupt", entry.file.name, str(error)))
        else:
            found.tensors[name] = statistics


def _compare_all(found: Scan, checkpoint: Checkpoint, others: Mapping[str, Checkpoint]) -> None:
    """What has no norm is equal or not."""
    for name, entry in checkpoint.entries.items():
        if checkpoint.has_numbers(name) or not checkpoint.has_elements(name):
            continue
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


def _measure_adapter(found: Scan, adapter: Checkpoint, others: list[Checkpoint], reference: int | None) -> None:
    """What an adapter makes of the weights, where the reference is the model that it was made for."""
    base = None if reference is None or others[reference].is_adapter else others[reference]
    change = measure_adapter(adapter, others, base)
    found.adapter_norm, found.adapter_ratio = change.norm, change.ratio
    found.changes, found.unknown = change.drifts, change.unknown


def _source(checkpoint: Checkpoint, name: str, workspace: Workspace) -> Source:
    return Source(checkpoint.blocks(name, workspace.block), checkpoint.entries[name].dtype)


def _counterpart(other: Checkpoint, name: str, entry: Entry) -> str | None:
    """The name of the same tensor in another checkpoint; None where that has none, or one of another shape.

    A model's names are those of the layers that an adapter saves whole, without PEFT's prefix.
    """
    for candidate in (name, name.removeprefix(PREFIX)):
        before = other.entries.get(candidate)
        if before is not None and before.shape == entry.shape and other.has_numbers(candidate):
            return candidate
    return None


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


VECTORS = 4
"""With four, the iteration converges by the ratio of the first to the fifth singular value."""
ITERATIONS = 30
TOLERANCE = 1e-4
"""Relative change between two iterations at which the estimate is taken."""


def spectral_norm(
    blocks: Callable[[int], Iterator[Array]],
    dtype: str,
    shape: tuple[int, ...],
    start: NDArray[np.float32] | None = None,
    *,
    block: int = 1 << 17,
) -> tuple[float, NDArray[np.float32]] | None:
    """The largest singular value of a tensor as a (rows, rest) matrix, and the vectors it was found with.

    Power iteration on W^T W with a few vectors at once (subspace iteration, Golub & Van Loan, section 8.2), one pass
    over blocks of rows an iteration, begun at the vectors of the previous checkpoint where there are some. The estimate
    approaches the value from below.

    Args:
        blocks: called with a number of elements, gives the tensor in flat undecoded blocks of that many.
        dtype: their format.
        shape: of the tensor; None is returned for fewer than two dimensions and for empty tensors.
        start: (rest, k) vectors of an earlier matrix of this shape.
        block: elements to work on at a time, at least one row.
    """
    if len(shape) < 2 or 0 in shape:
        return None
    columns = int(np.prod(shape[1:]))
    rows = max(1, block // columns)
    buffer = np.empty(rows * columns, dtype=np.float32)
    width = min(VECTORS, columns)
    if start is None or start.shape != (columns, width):
        start = np.random.default_rng(0).standard_normal((columns, width)).astype(np.float32)
    vectors, found = _orthonormal(start), 0.0
    for _ in range(ITERATIONS):
        gram = np.zeros((width, width))
        product = np.zeros((columns, width))
        for raw in blocks(rows * columns):
            matrix = decode(raw, dtype, buffer).reshape(-1, columns)
            image = matrix @ vectors
            gram += image.T @ image
            product += matrix.T @ image
        before, found = found, float(np.sqrt(max(0.0, np.linalg.eigvalsh(gram)[-1])))
        if abs(found - before) <= TOLERANCE * found:
            break
        vectors = _orthonormal(product.astype(np.float32))
    return found, vectors


def _orthonormal(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """An orthonormal basis that contains the space of the columns."""
    basis: NDArray[np.float32] = np.linalg.qr(vectors)[0]
    return basis
