"""How far a step moves weights that are made of two thin matrices, W + scale * B A, without forming their product.

The two matrices alone say nothing of it: B begins at zero, so that it moves by many times its norm while the weights
hardly move, and with A twice and B half as large the weights are the same (Hu et al. 2022, arXiv:2106.09685).
"""

from __future__ import annotations

import torch
from torch import Tensor

from rldk_tracking.metrics.columns import precise

Pair = tuple[Tensor, Tensor]
"""A (r, in) and B (out, r)."""


@torch.no_grad()
def change_square(before: Pair, after: Pair) -> Tensor:
    """|B' A' - B A|_F^2, a scalar on the device.

    As (B' - B) A' + B (A' - A), in which small differences do not cancel, and |L R|^2 = sum of (L^T L) * (R R^T), two
    matrices of 2r x 2r.

    >>> a, b = torch.ones(1, 3), torch.zeros(2, 1)
    >>> float(change_square((a, b), (a, b + 0.5)))
    1.5
    """
    (a, b), (new_a, new_b) = [tuple(precise(tensor) for tensor in pair) for pair in (before, after)]
    left = torch.cat([new_b - b, b], dim=1)
    right = torch.cat([new_a, new_a - a], dim=0)
    return ((left.T @ left) * (right @ right.T)).sum().clamp_min(0.0)
