"""Changes of weights that are products of two thin matrices: norms and inner products without forming them.

With r the rank, <P Q, P' Q'> = sum of (P^T P') * (Q Q'^T), two small matrices of r x r.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rldk_tracking.checkpoint.formats import decode
from rldk_tracking.checkpoint.reader import Checkpoint
from rldk_tracking.checkpoint.statistics import BLOCK

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class LowRank:
    """A change `left @ right` of weights as they are stored, as (rows, rest).

    Attributes:
        left: (rows, r), the adapter's scale in it.
        right: (r, columns).
    """

    left: Matrix
    right: Matrix

    @property
    def square(self) -> float:
        """|left @ right|_F^2."""
        return max(0.0, self.inner(self))

    def inner(self, other: LowRank) -> float:
        """The inner product with another change of the same weights."""
        return float(np.sum((self.left.T @ other.left) * (self.right @ other.right.T)))

    def minus(self, other: LowRank) -> LowRank:
        """The difference, as (L - L') R + L' (R - R'), in which small differences do not cancel."""
        if self.left.shape != other.left.shape:
            return LowRank(np.hstack([self.left, -other.left]), np.vstack([self.right, other.right]))
        return LowRank(
            np.hstack([self.left - other.left, other.left]), np.vstack([self.right, self.right - other.right])
        )


def against_weights(weights: Checkpoint, name: str, changes: Sequence[LowRank]) -> tuple[float, list[float]]:
    """|W|_F^2 of a stored matrix, and its inner product with each change, in one pass over blocks of whole rows.

    Args:
        weights: holds the matrix.
        name: of the tensor, as (rows, rest).
        changes: all of its shape.

    Raises:
        DamagedFileError: the file has become shorter since it was opened.
    """
    entry = weights.entries[name]
    columns = entry.numel // entry.shape[0]
    rows = max(1, BLOCK // columns)
    buffer = np.empty(rows * columns, dtype=np.float32)
    left = np.hstack([change.left for change in changes])
    right = np.vstack([change.right for change in changes]).T.astype(np.float32)
    square, sums, row = 0.0, np.zeros(left.shape[1]), 0
    for raw in weights.blocks(name, rows * columns):
        values = decode(raw, entry.dtype, buffer)
        square += float(np.dot(values, values))
        image = values.reshape(-1, columns) @ right
        sums += np.sum(image * left[row : row + len(image)], axis=0)
        row += len(image)
    ends = np.cumsum([change.left.shape[1] for change in changes])
    products = [float(np.sum(part)) for part in np.split(sums, ends[:-1])]
    return (square, products) if math.isfinite(square) else (math.nan, products)
