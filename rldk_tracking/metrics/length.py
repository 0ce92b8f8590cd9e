"""How long completions are, in response tokens, and how they end.

| key | formula, over completions |
|---|---|
| rldk/length/mean, std, min, max, p95 | of the number of response tokens |
| rldk/length/truncated_fraction | share that the length limit ended |
| rldk/length/eos_fraction | share that ended by itself |
| rldk/length/terminated_mean | mean length of those that ended by themselves; absent where none did |

The percentile interpolates linearly, the standard deviation has n - 1 in the denominator.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from rldk_tracking.metrics.statistics import quantiles
from rldk_tracking.metrics.table import Table, count_of, precise
from rldk_tracking.rollout import Rollout

COLUMNS = ("length/tokens", "length/truncated")


def columns(rollout: Rollout) -> dict[str, Tensor]:
    """(B,) length, and 1.0 where the length limit ended the completion."""
    found = {"length/tokens": count_of(rollout.mask.bool())}
    if rollout.truncated is not None:
        found["length/truncated"] = precise(rollout.truncated.bool())
    return found


def compute(table: Table) -> dict[str, float]:
    """The keys of this group that exist for this table."""
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
