"""How sure of itself the policy is.

| key | formula |
|---|---|
| rldk/policy/entropy | mean over forward passes of each one's mean over tokens of the entropy of pi |
| rldk/policy/logprob_min | lowest log pi(token) over response tokens |

The entropy is taken from the first of these that the step has, in nats per token:

1. `PolicyUpdate.entropy`: exact, averaged over the forward passes of the loss as TRL's GRPO and RLOO log it, or over
   all tokens where the passes are not known;
2. `Rollout.entropy`: exact, over the response tokens of the rollout, which count as one pass;
3. `Rollout.logprobs`: the mean of -log pi(token). Tokens were drawn from pi, so it is an unbiased estimate (PPO).

Reads the columns length/tokens and ratio/tokens.
"""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from rldk_tracking.metrics.table import Table, highest, masked_sum, precise, where_masked
from rldk_tracking.rollout import PolicyUpdate, Rollout

COLUMNS = ("policy/entropy", "policy/surprise_max")
UPDATE_COLUMNS = ("policy/update_entropy", "policy/update_pass")


def columns(rollout: Rollout) -> dict[str, Tensor]:
    """(B,) sums and extremes over response tokens; empty without log-probabilities and entropy."""
    found = {}
    surprise = -rollout.logprobs if rollout.logprobs is not None else None
    entropy = rollout.entropy if rollout.entropy is not None else surprise
    if entropy is not None:
        found["policy/entropy"] = masked_sum(entropy, rollout.mask)
    if surprise is not None:
        found["policy/surprise_max"] = highest(where_masked(surprise, rollout.mask, -math.inf))
    return found


def update_columns(update: PolicyUpdate) -> dict[str, Tensor]:
    """(N,) sums over the tokens of the loss, and the forward pass that each row was in; empty without entropy."""
    if update.entropy is None:
        return {}
    found = {"policy/update_entropy": masked_sum(update.entropy, update.mask)}
    if update.micro_batch is not None:
        found["policy/update_pass"] = precise(update.micro_batch)
    return found


def compute(table: Table) -> dict[str, float]:
    """The keys of this group that exist for this table, but for the entropy."""
    surprise = table.get("policy/surprise_max")
    lowest = -float(np.nanmax(surprise)) if surprise is not None else math.nan
    return {"rldk/policy/logprob_min": lowest} if math.isfinite(lowest) else {}


def entropy(rollout: Table, update: Table) -> dict[str, float]:
    """The entropy, where either table has one."""
    found = _mean_over_passes(update)
    if found is None:
        found = rollout.ratio("policy/entropy", "length/tokens")
    return {} if found is None else {"rldk/policy/entropy": found}


def _mean_over_passes(update: Table) -> float | None:
    passes = update.get("policy/update_pass")
    if passes is None:
        return update.ratio("policy/update_entropy", "ratio/tokens")
    names = ("policy/update_entropy", "ratio/tokens")
    parts = [Table({name: update.columns[name][passes == one] for name in names}) for one in sorted(set(passes))]
    means = [mean for part in parts if (mean := part.ratio(*names)) is not None]
    return sum(means) / len(means) if means else None
