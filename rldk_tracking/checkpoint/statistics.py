"""What can be said of one saved tensor, and of how far it has moved, in one pass over its blocks.

A block is small enough to stay in the processor's cache, so that the memory is read once for all statistics together.
Sums are taken in float32 within a block and in float64 over blocks (all in float64 for float64 tensors and for tensors
of at most SMALL elements). 16-bit tensors are converted block by block.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rldk_tracking.checkpoint.entries import Array, decode

BLOCK = 1 << 18
"""Elements: what a block needs stays in the cache, and calls are few."""
ROW = 1 << 10
"""Elements that are summed at once."""
SMALL = 1 << 14
"""Elements up to which float64 costs nothing that counts: the gains of normalisation layers, with a mean near 1."""


@dataclass(frozen=True, slots=True)
class Drift:
    """How far a tensor is from the same tensor of another checkpoint.

    Elements that are not finite have no distance, so that nothing is said of how far a tensor with one of them is.

    Attributes:
        distance: |a - b|, Euclidean, over elements finite in both.
        norm: |b| over the same elements.
        product: the inner product of a and b, likewise.
        own: |a|, likewise.
        skipped: elements that are NaN or infinite in a or b.
        same: whether every element is that of the other, NaN where the other is NaN.
    """

    distance: float
    norm: float
    product: float
    own: float
    skipped: int = 0
    same: bool = False

    @property
    def relative(self) -> float | None:
        """|a - b| / |b|; None where b is zero, or where some element is not finite."""
        return self.distance / self.norm if self.norm > 0 and self.skipped == 0 else None

    @property
    def cosine(self) -> float | None:
        """Of the angle between a and b; None where one of them is zero, or some element is not finite."""
        scale = self.norm * self.own
        return max(-1.0, min(1.0, self.product / scale)) if scale > 0 and self.skipped == 0 else None

    @property
    def norm_ratio(self) -> float | None:
        """|a| / |b|; None where b is zero, or where some element is not finite."""
        return self.own / self.norm if self.norm > 0 and self.skipped == 0 else None

    @classmethod
    def of_all(cls, parts: Sequence[Drift]) -> Drift:
        """Of several tensors taken as one."""
        return cls(
            distance=math.sqrt(sum(part.distance**2 for part in parts)),
            norm=math.sqrt(sum(part.norm**2 for part in parts)),
            product=sum(part.product for part in parts),
            own=math.sqrt(sum(part.own**2 for part in parts)),
            skipped=sum(part.skipped for part in parts),
            same=all(part.same for part in parts),
        )


@dataclass(frozen=True, slots=True)
class TensorStatistics:
    """Of one tensor, over its finite elements.

    Attributes:
        count: elements, the others too.
        norm: Euclidean; None where no element of those that there are is finite.
        mean, std: None without a finite element; std divides by n.
        largest: max |element|; None without a finite element.
        zeros: share of elements that are exactly 0.
        nan, infinite: how many elements are NaN, and how many infinite.
        drift: one for each other checkpoint, None where that lacks the tensor or has another shape.
        spectral_norm: largest singular value as a (rows, rest) matrix, where it was asked for.
        stable_rank: |W|_F^2 / |W|_2^2, likewise.
    """

    count: int
    norm: float | None
    mean: float | None
    std: float | None
    largest: float | None
    zeros: float
    nan: int = 0
    infinite: int = 0
    drift: tuple[Drift | None, ...] = ()
    spectral_norm: float | None = None
    stable_rank: float | None = None

    @property
    def finite(self) -> bool:
        """Whether every element is a number."""
        return self.nan == 0 and self.infinite == 0

    def with_spectrum(self, largest: float) -> TensorStatistics:
        """The same with its largest singular value."""
        stable_rank = (self.norm / largest) ** 2 if self.norm is not None and largest > 0 else None
        return replace(self, spectral_norm=largest, stable_rank=stable_rank)


class Workspace:
    """The buffers that a scan reuses: about 4 MiB, whatever the model."""

    def __init__(self, block: int = BLOCK) -> None:
        self.block = block
        self._ones = np.ones(ROW, dtype=np.float32)
        self._mask = np.empty(block, dtype=np.bool_)
        self._difference = np.empty(block, dtype=np.float32)
        self._decoded = [np.empty(block, dtype=np.float32) for _ in range(2)]

    def numbers(self, raw: Array, dtype: str, slot: int, *, wide: bool, ordered: bool) -> Array:
        """A block as float32, in the buffer `slot` where it is of another type; as float64 where `wide`."""
        values = decode(raw, dtype, self._decoded[slot], ordered=ordered)
        return values.astype(np.float64) if wide else values

    def zeros(self, values: Array) -> int:
        """How many elements are exactly 0. Mostly none, which is known sooner than a count."""
        mask = np.equal(values, 0, out=self._mask[: len(values)])
        return int(np.count_nonzero(mask)) if mask.any() else 0

    def total(self, values: Array) -> float:
        """The sum; a product with ones is more than twice as fast as numpy's own."""
        whole = len(values) - len(values) % ROW
        if values.dtype == np.float64 or whole == 0:
            return float(values.sum())
        rows = float((values[:whole].reshape(-1, ROW) @ self._ones).sum())
        return rows + float(values[whole:].sum()) if whole < len(values) else rows

    def squared_distance(self, a: Array, b: Array) -> float:
        """|a - b|^2, from the difference itself: expanding the square would cancel for small drifts."""
        single = a.dtype == b.dtype == np.float32
        difference = np.subtract(a, b, out=self._difference[: len(a)] if single else None)
        return float(np.dot(difference, difference))


@dataclass
class _Pair:
    """Sums over the elements that are finite in both tensors."""

    distance: float = 0.0
    own: float = 0.0
    other: float = 0.0
    skipped: int = 0
    same: bool = True

    def add(self, values: Array, square: float, other: Array, workspace: Workspace, exact: bool) -> None:
        """A block of each; `square` is |values|^2. Not `exact` where some element was not a number."""
        norm = float(np.dot(other, other))
        if not exact or not math.isfinite(norm):
            self.same = self.same and np.array_equal(values, other, equal_nan=True)
            finite = np.isfinite(values) & np.isfinite(other)
            self.skipped += len(finite) - int(np.count_nonzero(finite))
            values, other = np.where(finite, values, 0.0).astype(float), np.where(finite, other, 0.0).astype(float)
            square, norm = float(np.dot(values, values)), float(np.dot(other, other))
        distance = workspace.squared_distance(values, other)
        if self.same:  # the square of a small difference may be 0 in float32
            self.same = distance == 0.0 and np.array_equal(values, other)
        self.distance += distance
        self.own += square
        self.other += norm

    def drift(self) -> Drift:
        """2 ab = a^2 + b^2 - (a - b)^2, exact enough: what cancels is what makes the cosine 0."""
        product = (self.own + self.other - self.distance) / 2
        return Drift(
            math.sqrt(self.distance), math.sqrt(self.other), product, math.sqrt(self.own), self.skipped, self.same
        )


@dataclass(frozen=True, slots=True)
class Source:
    """The undecoded blocks of one tensor, of the workspace's size, and their format."""

    blocks: Iterator[Array]
    dtype: str


def measure(own: Source, others: Sequence[Source | None], count: int, workspace: Workspace) -> TensorStatistics:
    """The statistics of one tensor of `count` elements.

    Args:
        own: its elements.
        others: the same tensor in other checkpoints, of any format; None where there is none to compare with.
        count: number of elements.
        workspace: buffers.
    """
    wide = own.dtype == "F64" or count <= SMALL
    ordered = any(other is not None and other.dtype != own.dtype for other in others)
    total = squares = largest = 0.0
    zeros = nan = infinite = 0
    pairs = [None if other is None else _Pair() for other in others]
    for block in own.blocks:
        values = workspace.numbers(block, own.dtype, 0, wide=wide, ordered=ordered)
        square = float(np.dot(values, values))
        kept, exact = values, math.isfinite(square)
        if not exact:  # also where the square of a number exceeds float32
            finite = np.isfinite(values)
            nan += int(np.isnan(values).sum())
            infinite += int(np.isinf(values).sum())
            zeros -= len(values) - int(finite.sum())
            kept = np.where(finite, values, 0.0).astype(np.float64)
        squares += square if exact else float(np.dot(kept, kept))
        total += workspace.total(kept)
        zeros += workspace.zeros(kept)
        largest = max(largest, float(kept.max()), -float(kept.min()))
        for pair, other in zip(pairs, others, strict=True):
            if pair is not None and other is not None:
                compared = workspace.numbers(next(other.blocks), other.dtype, 1, wide=wide, ordered=ordered)
                pair.add(values, square, compared, workspace, exact)
    drifts = [None if pair is None else pair.drift() for pair in pairs]
    return _result(count, total, squares, largest, zeros, nan, infinite, drifts)


def _result(
    count: int,
    total: float,
    squares: float,
    largest: float,
    zeros: int,
    nan: int,
    infinite: int,
    drift: Sequence[Drift | None],
) -> TensorStatistics:
    finite = count - nan - infinite
    mean = total / finite if finite else None
    std = None if mean is None else math.sqrt(max(0.0, squares / finite - mean**2))
    return TensorStatistics(
        count=count,
        norm=math.sqrt(squares) if finite or count == 0 else None,
        mean=mean,
        std=std,
        largest=largest if finite else None,
        zeros=zeros / count if count else 0.0,
        nan=nan,
        infinite=infinite,
        drift=tuple(drift),
    )
