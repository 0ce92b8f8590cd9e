"""Whether the engine that samples and the model that trains agree on how likely each token was.

With d = log pi_trainer(token) - log pi_sampler(token), over response tokens drawn by the sampler:

| key | formula |
|---|---|
| rldk/sampler/logp_diff_mean, logp_diff_max | of |d|, nats |
| rldk/sampler/k3 | mean of exp(d) - 1 - d: KL of the trainer's policy from the sampler's |
| rldk/sampler/ratio_max | of exp(d) |
| rldk/sampler/ess | (sum w)^2 / (n sum w^2) over tokens, w = exp(d), before any truncation |
| rldk/sampler/fraction_off | share of tokens with |d| > ln 2: one engine finds them twice as likely as the other |

Tokens that the sampler could not score (NaN) are left out, as in TRL's `sampling/sampling_logp_difference`;
a completion that the trainer could not score is left out whole.
"""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from rldk_tracking.metrics.table import Table, masked_max, masked_sum, precise
from rldk_tracking.rollout import Rollout

COLUMNS = (
    "sampler/tokens",
    "sampler/difference",
    "sampler/difference_max",
    "sampler/k3",
    "sampler/log_ratio_max",
    "sampler/ratio",
    "sampler/ratio_square",
    "sampler/off",
)


def columns(rollout: Rollout) -> dict[str, Tensor]:
    """(B,) sums and extremes over the tokens that both have scored."""
    if rollout.logprobs is None or rollout.sampler_logprobs is None:
        return {}
    difference = precise(rollout.logprobs) - precise(rollout.sampler_logprobs)
    mask = rollout.mask.bool() & ~rollout.sampler_logprobs.isnan()
    difference = difference.masked_fill(~mask, 0.0)
    size, ratio = difference.abs(), difference.exp()
    unknown = difference.isnan().any(dim=1)
    return {
        "sampler/tokens": precise(mask).sum(dim=1).masked_fill(unknown, math.nan),
        "sampler/difference": masked_sum(size, mask),
        "sampler/difference_max": masked_max(size, mask),
        "sampler/k3": masked_sum(difference.expm1() - difference, mask),
        "sampler/log_ratio_max": masked_max(difference, mask),
        "sampler/ratio": masked_sum(ratio, mask),
        "sampler/ratio_square": masked_sum(ratio.square(), mask),
        "sampler/off": masked_sum(size > math.log(2), mask),
    }


def compute(table: Table) -> dict[str, float]:
    """The keys of this group that exist for this table."""
    metrics = {
        "rldk/sampler/logp_diff_mean": table.ratio("sampler/difference", "sampler/tokens"),
        "rldk/sampler/k3": table.ratio("sampler/k3", "sampler/tokens"),
        "rldk/sampler/fraction_off": table.ratio("sampler/off", "sampler/tokens"),
    }
    largest, log_ratio = table.get("sampler/difference_max"), table.get("sampler/log_ratio_max")
    if largest is not None and log_ratio is not None:
        metrics["rldk/sampler/logp_diff_max"] = float(np.nanmax(largest))
        highest = float(np.nanmax(log_ratio))
        metrics["rldk/sampler/ratio_max"] = math.exp(highest) if highest < 700 else None
    mean, mean_square = (table.ratio(f"sampler/{name}", "sampler/tokens") for name in ("ratio", "ratio_square"))
    if mean is not None and mean_square is not None and mean_square > 0:
        metrics["rldk/sampler/ess"] = mean**2 / mean_square
    return {key: value for key, value in metrics.items() if value is not None and math.isfinite(value)}
