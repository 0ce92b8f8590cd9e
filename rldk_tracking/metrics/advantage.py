"""What the loss weighs the completions with.

Keys, read by `rldk_tracking.metrics.keys`:

    rldk/advantage/mean | 1 | rollout
        Advantages as the loss uses them: whitened where the trainer whitens.
        = mean over tokens (GRPO and RLOO: over completions)
    rldk/advantage/std | 1 | rollout
        Their spread.
        = standard deviation (n - 1), likewise
    rldk/advantage/raw_mean | reward | rollout
        Advantages before whitening; far from 0 the baseline is biased.
        = mean, likewise
    rldk/advantage/raw_std | reward | rollout
        Their spread before whitening, which whitening hides.
        = standard deviation (n - 1), likewise
    rldk/advantage/abs_p99 | 1 | rollout
        Whether few tokens dominate the loss.
        = 99th percentile of the magnitude, as used
    rldk/advantage/fraction_positive | 1 | rollout
        Share that is reinforced.
        = share above 0
    rldk/advantage/length_corr | 1 | rollout
        Whether training pushes towards longer (above 0) or shorter completions.
        = Spearman over completions of the (mean) advantage, before whitening where known, with the length

The correlation is of ranks because both are skewed: one long completion must not decide it. It reads the column
length/tokens, and the raw advantages where they are there: whitening does not change an order within one batch,
but trainers whiten each rank or minibatch by itself.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rldk_tracking.metrics.columns import count_of, moment_columns, precise
from rldk_tracking.metrics.groups import merge_near_ties
from rldk_tracking.metrics.statistics import merge_moments, spearman
from rldk_tracking.metrics.table import Table, finite, moment_names
from rldk_tracking.rollout import Rollout

COLUMNS = (*moment_names("advantage/used"), *moment_names("advantage/raw"), "advantage/positive")
TAILS = ("advantage/magnitude",)
FIELDS = ("advantages", "raw_advantages")


def columns(rollout: Rollout) -> dict[str, Tensor]:
    """(B,) moments of each completion's advantages, and how many of them are positive."""
    found: dict[str, Tensor] = {}
    if rollout.advantages is not None:
        found |= _moments("advantage/used", rollout.advantages, rollout.mask)
        positive = rollout.advantages > 0
        if positive.ndim == 2:
            found["advantage/positive"] = count_of(positive & rollout.mask.bool())
        else:
            found["advantage/positive"] = precise(positive)
    if rollout.raw_advantages is not None:
        found |= _moments("advantage/raw", rollout.raw_advantages, rollout.mask)
    return found


def tails(rollout: Rollout) -> dict[str, tuple[Tensor, Tensor]]:
    """Values and mask of the quantities whose high quantiles are wanted."""
    if rollout.advantages is None:
        return {}
    magnitude = rollout.advantages.abs()
    known = ~magnitude.isnan()
    if magnitude.ndim == 1:
        return {"advantage/magnitude": (magnitude[:, None], known[:, None])}
    return {"advantage/magnitude": (magnitude, known & rollout.mask.bool())}


def compute(table: Table) -> dict[str, float]:
    """`rldk/advantage/...`.

    >>> rollout = Rollout(torch.ones(3, 2), advantages=torch.tensor([1.0, -1.0, 3.0]))
    >>> table = Table({name: column.numpy() for name, column in columns(rollout).items()})
    >>> found = compute(table)
    >>> found["rldk/advantage/mean"], found["rldk/advantage/std"]
    (1.0, 2.0)
    """
    metrics: dict[str, float | None] = {}
    used, raw = merge_moments(table, "advantage/used"), merge_moments(table, "advantage/raw")
    if used is not None:
        metrics["rldk/advantage/mean"] = used.mean
        metrics["rldk/advantage/std"] = used.std
        positive, means = table.get("advantage/positive"), table.get("advantage/used/mean")
        if positive is not None and means is not None:
            metrics["rldk/advantage/fraction_positive"] = float(positive[means == means].sum()) / used.count
    if raw is not None:
        metrics["rldk/advantage/raw_mean"] = raw.mean
        metrics["rldk/advantage/raw_std"] = raw.std
    if "advantage/magnitude" in table.tails:
        metrics["rldk/advantage/abs_p99"] = table.tails["advantage/magnitude"].quantile(0.99)
    means, lengths = table.get("advantage/raw/mean"), table.get("length/tokens")
    means = means if means is not None else table.get("advantage/used/mean")
    if means is not None and lengths is not None:
        both = np.isfinite(means) & np.isfinite(lengths)
        ranked = merge_near_ties(means[both], np.zeros(int(both.sum()), dtype=np.intp))
        metrics["rldk/advantage/length_corr"] = spearman(ranked, lengths[both])
    return finite(metrics)


def _moments(prefix: str, advantages: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Over the tokens of each completion; where a completion has one advantage, of that one number."""
    if advantages.ndim == 2:
        return moment_columns(prefix, advantages, mask)
    mean = precise(advantages)
    return dict(zip(moment_names(prefix), (torch.ones_like(mean), mean, torch.zeros_like(mean)), strict=True))
