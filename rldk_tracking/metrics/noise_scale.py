"""The gradient noise scale: about the batch size at which a larger batch stops paying.

| key | formula |
|---|---|
| rldk/grad/noise_scale | tr(S) / |G|^2 in samples, S the covariance of one sample's gradient and G the true gradient |

This is B_simple of McCandlish et al. 2018 (arXiv:1812.06162, appendix A.1), from the squared norms of the gradient over
one micro-batch and over the whole batch. With gradient accumulation both exist anyway.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

MEMORY = 0.95
"""Weight of the past in the running means of both estimates."""


def estimates(small_square: Tensor, big_square: Tensor, small: float, big: float) -> tuple[Tensor, Tensor]:
    """Unbiased (tr(S), |G|^2) from |G_B|^2 over batches of `small` and of `big` samples.

    Both are noisy and may be negative: average each over steps before dividing.

    Raises:
        ValueError: unless 0 < small < big.
    """
    if not 0 < small < big:
        raise ValueError(f"Two batch sizes with 0 < small < big are needed, got {small} and {big}.")
    trace = (small_square - big_square) / (1 / small - 1 / big)
    signal = (big * big_square - small * small_square) / (big - small)
    return trace, signal


class NoiseScale:
    """Running means over optimizer steps, on the device.

    Args:
        samples: in one backward pass of one rank.
        ranks: over which gradients are averaged before the optimizer's step, but not within an accumulation.
    """

    def __init__(self, samples: float, ranks: int = 1) -> None:
        self._samples = samples
        self._ranks = ranks
        self._first: Tensor | None = None
        self._passes = 0
        self._means: Tensor | None = None

    def micro(self, square: Callable[[], Tensor]) -> None:
        """A backward pass without an optimizer step is over. `square` measures |accumulated gradient|^2."""
        if self._passes == 0:
            self._first = square()
        self._passes += 1

    def step(self, square: Tensor) -> None:
        """The last backward pass is over, and the whole gradient has this |G|^2, before clipping."""
        passes, first = self._passes + 1, self._first
        self._passes, self._first = 0, None
        if first is None:
            return
        # Trainers divide each pass by the number of passes, so that the sum is a mean.
        small, big = self._samples, self._samples * passes * self._ranks
        pair = torch.stack(estimates(first * passes**2, square, small, big))
        if self._means is None:
            self._means = torch.zeros_like(pair)
        usable = pair.isfinite().all()
        self._means = torch.where(usable, MEMORY * self._means + (1 - MEMORY) * pair, self._means)

    def value(self, unknown: Tensor) -> Tensor:
        """A scalar, in samples; `unknown` where the means are not both positive yet."""
        if self._means is None:
            return unknown
        trace, signal = self._means
        return torch.where((trace > 0) & (signal > 0), trace / signal, unknown)
