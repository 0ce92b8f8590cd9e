"""The gradient noise scale: about the batch size at which a larger batch stops paying.

Keys, read by `rldk_tracking.metrics.keys`:

    rldk/grad/noise_scale | samples | optimizer
        Batch size above which larger batches bring little (McCandlish et al. 2018). Only at the level "full" and with
        gradient accumulation; samples count as independent, which completions of one prompt are not quite.
        = B_simple = tr(S) / |G|^2, by least squares from |gradient|^2 after each micro-batch of an accumulation

S is the covariance of one sample's gradient, G the true gradient, and B_simple that of McCandlish et al. 2018
(arXiv:1812.06162, appendix A.1). With gradient accumulation a step passes
through the sums A_k of the first k = 1 ... K micro-batches' gradients, each a mean over b samples, and

    E |A_k|^2 = k^2 |G|^2 + k tr(S) / b

Of ranks that average before the step the last sum has tr(S) / b divided by their number. Both unknowns follow by
weighted least squares from the growth of |A_k|^2 from one micro-batch to the next, whose variance goes like 2 k - 1
where noise prevails, as it does in practice, and which is then uncorrelated. With two micro-batches that is
McCandlish's pair of batch sizes; with more, each of them counts, not the first alone.

Samples are taken as independent. Completions of one prompt share a baseline, so in GRPO and RLOO the number that is
independent is that of prompts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

MEMORY = 0.95
"""Weight of the past in the running means of both estimates."""


def estimates(squares: Tensor, samples: float, ranks: int = 1) -> tuple[Tensor, Tensor]:
    """Unbiased (tr(S), |G|^2); both are noisy and may be negative: average each over steps before dividing.

    Args:
        squares: (K,) |A_k|^2, the last one of the mean over ranks.
        samples: in one micro-batch of one rank.
        ranks: over which gradients are averaged before the optimizer's step, but not within an accumulation.

    Raises:
        ValueError: fewer than two micro-batches, or no samples.

    >>> trace, square = estimates(torch.tensor([3.0, 8.0]), samples=4)
    >>> trace.item(), square.item()
    (8.0, 1.0)
    """
    passes = len(squares)
    if passes < 2 or not samples > 0:
        raise ValueError(f"Two micro-batches of samples are needed, got {passes} of {samples:g}.")
    growth = squares.clone()
    growth[1:-1] -= squares[:-2]
    growth[-1] -= squares[-2] / ranks**2
    signal, noise = torch.tensor(_solution(passes, ranks), dtype=squares.dtype, device=squares.device) @ growth
    return noise * samples, signal


@lru_cache(maxsize=16)
def _solution(passes: int, ranks: int) -> list[list[float]]:
    """(2, K) what (|G|^2, tr(S) / b) are of the growths."""
    k = np.arange(1, passes + 1, dtype=np.float64)
    of_signal, of_noise, variance = 2 * k - 1, np.ones(passes), 2 * k - 1
    # The last sum is the mean over ranks, of which this one's own part before it is taken off.
    of_signal[-1] = passes**2 - (passes - 1) ** 2 / ranks**2
    of_noise[-1] = passes / ranks - (passes - 1) / ranks**2
    variance[-1] = of_signal[-1] / ranks**2
    design = np.stack([of_signal, of_noise], axis=1)
    weighted = design / variance[:, None]
    solution: list[list[float]] = np.linalg.solve(weighted.T @ design, weighted.T).tolist()
    return solution


class NoiseScale:
    """Running means over optimizer steps, on the device.

    Args:
        samples: in one backward pass of one rank.
        ranks: over which gradients are averaged before the optimizer's step, but not within an accumulation.
    """

    def __init__(self, samples: float, ranks: int = 1) -> None:
        self._samples = samples
        self._ranks = ranks
        self._partial: list[Tensor] = []
        self._means: Tensor | None = None

    def micro(self, square: Callable[[], Tensor]) -> None:
        """A backward pass without an optimizer step is over. `square` measures |accumulated gradient|^2."""
        self._partial.append(square())

    def step(self, square: Tensor) -> None:
        """The last backward pass is over, and the whole gradient has this |G|^2, before clipping."""
        squares, self._partial = [*self._partial, square], []
        if len(squares) < 2:
            return
        # Trainers divide each pass by the number of passes, so that the sum is a mean.
        pair = torch.stack(estimates(torch.stack(squares) * len(squares) ** 2, self._samples, self._ranks))
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
