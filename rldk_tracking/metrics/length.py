"""How long completions are, in response tokens, and how they end.

Keys, read by `rldk_tracking.metrics.keys`:

    rldk/length/mean | tokens | rollout
        Tokens of a completion that the model wrote: without those of tools.
        = mean over completions
    rldk/length/std | tokens | rollout
        Spread of the length.
        = standard deviation (n - 1) over completions
    rldk/length/min | tokens | rollout | min over ranks
        Shortest completion.
        = minimum over completions
    rldk/length/max | tokens | rollout | max over ranks
        Longest completion.
        = maximum over completions
    rldk/length/p95 | tokens | rollout
        One completion in twenty is longer.
        = 95th percentile, interpolated linearly
    rldk/length/truncated_fraction | 1 | rollout | lower
        Share that the length limit cut off.
        = truncated completions / completions
    rldk/length/eos_fraction | 1 | rollout | higher
        Share that ended by itself.
        = 1 - truncated_fraction
    rldk/length/terminated_mean | tokens | rollout
        Length of the completions that ended by themselves; absent where none did.
        = mean over completions that were not truncated
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from rldk_tracking.metrics.columns import Table, count_of, precise
from rldk_tracking.metrics.statistics import quantiles
from rldk_tracking.rollout import Rollout

COLUMNS = ("length/tokens", "length/truncated")
FIELDS = ("mask",)


def columns(rollout: Rollout) -> dict[str, Tensor]:
    """(B,) length, and 1.0 where the length limit ended the completion."""
    found = {"length/tokens": count_of(rollout.mask.bool())}
    if rollout.truncated is not None:
        found["length/truncated"] = precise(rollout.truncated.bool())
    return found


def compute(table: Table) -> dict[str, float]:
    """`rldk/length/...`.

    >>> table = Table({"length/tokens": np.array([2.0, 4.0]), "length/truncated": np.array([0.0, 1.0])})
    >>> found = compute(table)
    >>> found["rldk/length/mean"], found["rldk/length/truncated_fraction"]
    (3.0, 0.5)
    """
    lengths = table.get("length/tokens")
    if lengths is None:
        return {}
    metrics = {}
    known = lengths[np.isfinite(lengths)]
    metrics["rldk/length/mean"] = float(known.mean())
    metrics["rldk/length/min"] = float(known.min())
    metrics["rldk/length/max"] = float(known.max())
    (metrics["rldk/length/p95"],) = quantiles(known, [0.95])
    if len(known) > 1:
        metrics["rldk/length/std"] = float(known.std(ddof=1))
    truncated = table.get("length/truncated")
    if truncated is not None:
        metrics["rldk/length/truncated_fraction"] = float(np.nanmean(truncated))
        metrics["rldk/length/eos_fraction"] = 1.0 - metrics["rldk/length/truncated_fraction"]
        terminated = lengths[truncated == 0]
        if len(terminated):
            metrics["rldk/length/terminated_mean"] = float(terminated.mean())
    return metrics
