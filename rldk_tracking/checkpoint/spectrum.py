"""The largest singular value of a saved matrix, without holding the matrix.

Power iteration on W^T W with a few vectors at once (subspace iteration, Golub & Van Loan, section 8.2), one pass over
blocks of rows an iteration, begun at the vectors of the previous checkpoint where there are some. The estimate
approaches the value from below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from rldk_tracking.checkpoint.formats import Array, decode

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
