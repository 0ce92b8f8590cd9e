"""How sure of itself the policy was when it sampled.

| key | formula |
|---|---|
| rldk/policy/entropy | mean over response tokens of the exact entropy, where it is not known of -log pi(token) |
| rldk/policy/logprob_min | lowest log pi(token) over response tokens |

The mean of -log pi(token) over tokens drawn from pi is an unbiased estimate of the mean entropy, in nats per token.
"""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from rldk_tracking.metrics.table import Table, masked_max, masked_sum, precise
from rldk_tracking.rollout import Rollout

COLUMNS = ("policy/tokens", "policy/entropy", "policy/surprise_max")


def columns(rollout: Rollout) -> dict[str, Tensor]:
    """(B,) sums and extremes over response tokens; empty without log-probabilities and entropy."""
    mask = rollout.mask.bool()
    found = {}
    surprise = -precise(rollout.logprobs) if rollout.logprobs is not None else None
    entropy = rollout.entropy if rollout.entropy is not None else surprise
    if entropy is not None:
        found["policy/tokens"] = precise(mask).sum(dim=1)
        found["policy/entropy"] = masked_sum(entropy, mask)
    if surprise is not None:
        found["policy/surprise_max"] = masked_max(surprise, mask)
    return found


def compute(table: Table) -> dict[str, float]:
    """The keys of this group that exist for this table."""
    metrics = {"rldk/policy/entropy": table.ratio("policy/entropy", "policy/tokens")}
    surprise = table.get("policy/surprise_max")
    if surprise is not None:
        metrics["rldk/policy/logprob_min"] = -float(np.nanmax(surprise))
    return {key: value for key, value in metrics.items() if value is not None and math.isfinite(value)}
