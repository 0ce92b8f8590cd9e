"""Whether the engine that samples and the model that trains agree on how likely each token was.

Keys, read by `rldk_tracking.metrics.keys`:

    rldk/sampler/logp_diff_mean | nats | rollout | lower
        Disagreement of the model that trains with the engine that samples.
        = mean over tokens of |d|, d = log pi_trainer - log pi_sampler
    rldk/sampler/logp_diff_max | nats | rollout | lower | max over ranks
        Their largest disagreement.
        = maximum over tokens of |d|
    rldk/sampler/k3 | nats per token | rollout | lower
        Divergence of the trainer's policy from the sampler's.
        = mean over tokens of exp(d) - 1 - d
    rldk/sampler/ratio_max | 1 | rollout | lower | max over ranks
        Largest importance ratio between the two, before any truncation.
        = maximum over tokens of exp(d)
    rldk/sampler/ess | 1 | rollout | higher
        Effective sample size of the sampler's tokens for the trainer, as a share of them.
        = (sum w)^2 / (n sum w^2), w = exp(d)
    rldk/sampler/fraction_off | 1 | rollout | lower
        Share of tokens that one of the two finds more than twice as likely as the other.
        = share of tokens with |d| > ln 2

Tokens that the sampler could not score (NaN) are left out, as in TRL's `sampling/sampling_logp_difference`;
a completion that the trainer could not score is left out whole.
"""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from rldk_tracking.metrics.columns import Table, count_of, finite, highest, precise, square_sum, where_masked
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
FIELDS = ("sampler_logprobs",)


def columns(rollout: Rollout) -> dict[str, Tensor]:
    """(B,) sums and extremes over the tokens that both have scored."""
    if rollout.logprobs is None or rollout.sampler_logprobs is None:
        return {}
    mask = rollout.mask.bool() & ~rollout.sampler_logprobs.isnan()
    everywhere = precise(rollout.logprobs) - rollout.sampler_logprobs
    difference = where_masked(everywhere, mask)
    size, total = difference.abs(), difference.sum(dim=1)
    log_ratio = where_masked(everywhere, mask, -math.inf)
    ratio = log_ratio.exp()
    return {
        "sampler/tokens": count_of(mask).masked_fill(total.isnan(), math.nan),
        "sampler/difference": size.sum(dim=1),
        "sampler/difference_max": highest(size),
        "sampler/k3": difference.expm1().sum(dim=1) - total,
        "sampler/log_ratio_max": highest(log_ratio),
        "sampler/ratio": ratio.sum(dim=1),
        "sampler/ratio_square": square_sum(ratio),
        "sampler/off": count_of(size > math.log(2)),
    }


def compute(table: Table) -> dict[str, float]:
    """The keys of this group that exist for this table.

    >>> import torch
    >>> trainer, sampler = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.0, -3.0]])
    >>> rollout = Rollout(torch.ones(1, 2), logprobs=trainer, sampler_logprobs=sampler)
    >>> table = Table({name: column.numpy() for name, column in columns(rollout).items()})
    >>> compute(table)["rldk/sampler/logp_diff_mean"]
    0.5
    """
    metrics = {
        "rldk/sampler/logp_diff_mean": table.ratio("sampler/difference", "sampler/tokens"),
        "rldk/sampler/k3": table.ratio("sampler/k3", "sampler/tokens"),
        "rldk/sampler/fraction_off": table.ratio("sampler/off", "sampler/tokens"),
    }
    largest, log_ratio = table.get("sampler/difference_max"), table.get("sampler/log_ratio_max")
    if largest is not None and log_ratio is not None:
        metrics["rldk/sampler/logp_diff_max"] = float(np.nanmax(largest))
        log_max = float(np.nanmax(log_ratio))
        metrics["rldk/sampler/ratio_max"] = math.exp(log_max) if log_max < 700 else None
    mean, mean_square = (table.ratio(f"sampler/{name}", "sampler/tokens") for name in ("ratio", "ratio_square"))
    if mean is not None and mean_square is not None and mean_square > 0:
        metrics["rldk/sampler/ess"] = mean**2 / mean_square
    return finite(metrics)
