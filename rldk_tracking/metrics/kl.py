"""Divergence of the policy from its reference, over response tokens, in nats.

Keys, read by `rldk_tracking.metrics.keys`:

    rldk/kl/ref_k1 | nats per token | rollout | lower
        Drift of the policy from its reference; unbiased, may be negative in small batches.
        = mean over tokens of d = log pi - log pi_ref
    rldk/kl/ref_k2 | nats per token | rollout | lower
        The same by Schulman's second estimator: biased, of low variance.
        = mean over tokens of d^2 / 2
    rldk/kl/ref_k3 | nats per token | rollout | lower
        Drift from the reference by Schulman's third estimator: unbiased, never negative; GRPO's `kl`.
        = mean over tokens of exp(-d) - 1 + d
    rldk/kl/ref_k1_stderr | nats per token | rollout | lower
        How far rldk/kl/ref_k1 may be off by chance.
        = standard error of the ratio of sums, with completions, empty ones too, as independent units (delta method)
    rldk/kl/ref_p99 | nats | rollout | lower
        Drift at the tokens that drifted most.
        = 99th percentile over tokens of d, with its sign: tokens that the policy gave up are at the other end
    rldk/kl/ref_per_sequence | nats per sequence | rollout | lower
        Drift summed over a completion, TRL PPO's `objective/kl`; grows with length.
        = mean over completions, empty ones too, of the sum of d
    rldk/kl/ref_k1_k3_gap | nats per token | rollout
        How much the estimators disagree; far from 0 where few tokens carry the drift.
        = ref_k1 - ref_k3

k1, k2, k3 are Schulman's estimators (http://joschu.net/blog/kl-approx.html). All tokens of the batch weigh the same.
A completion with a NaN log-probability under the mask is left out; an infinite sum leaves the key out. Reads the
column length/tokens.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from rldk_tracking.metrics.columns import Table, finite, precise, square_sum, where_masked
from rldk_tracking.metrics.statistics import Array
from rldk_tracking.rollout import Rollout

COLUMNS = ("kl/k1", "kl/k2", "kl/k3")
TAILS = ("kl/log_ratio",)
FIELDS = ("ref_logprobs",)


def columns(rollout: Rollout) -> dict[str, Tensor]:
    """(B,) sums over response tokens; empty without both policies' log-probabilities.

    >>> import torch
    >>> new, old = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, -2.5]])
    >>> columns(Rollout(torch.ones(1, 2), logprobs=new, ref_logprobs=old))["kl/k1"].tolist()
    [1.0]
    """
    log_ratio = _log_ratio(rollout)
    if log_ratio is None:
        return {}
    log_ratio = where_masked(log_ratio, rollout.mask)
    k1, k2 = log_ratio.sum(dim=1), square_sum(log_ratio) / 2
    k3 = log_ratio.neg_().expm1_().sum(dim=1) + k1  # in place: nothing needs the log ratio any more
    return {"kl/k1": k1, "kl/k2": k2, "kl/k3": k3}


def tails(rollout: Rollout) -> dict[str, tuple[Tensor, Tensor]]:
    """Values and mask of the quantities whose high quantiles are wanted."""
    log_ratio = _log_ratio(rollout)
    if log_ratio is None:
        return {}
    return {"kl/log_ratio": (log_ratio, rollout.mask.bool() & ~log_ratio.isnan())}


def compute(table: Table) -> dict[str, float]:
    """The keys of this group that exist for this table.

    >>> table = Table({"kl/k1": np.array([1.0, 2.0]), "length/tokens": np.array([2.0, 4.0])})
    >>> compute(table)["rldk/kl/ref_k1"]
    0.5
    """
    metrics: dict[str, float | None] = {
        f"rldk/kl/ref_{name}": table.ratio(f"kl/{name}", "length/tokens") for name in ("k1", "k2", "k3")
    }
    k1, tokens = table.get("kl/k1"), table.get("length/tokens")
    if k1 is not None and tokens is not None:
        known = ~np.isnan(k1)
        if tokens[known].any():
            metrics["rldk/kl/ref_per_sequence"] = float(k1[known].mean())
            metrics["rldk/kl/ref_k1_stderr"] = _ratio_standard_error(k1[known], tokens[known])
    if "kl/log_ratio" in table.tails:
        metrics["rldk/kl/ref_p99"] = table.tails["kl/log_ratio"].quantile(0.99)
    mean_k1, mean_k3 = metrics["rldk/kl/ref_k1"], metrics["rldk/kl/ref_k3"]
    if mean_k1 is not None and mean_k3 is not None:
        metrics["rldk/kl/ref_k1_k3_gap"] = mean_k1 - mean_k3
    return finite(metrics)


def _log_ratio(rollout: Rollout) -> Tensor | None:
    if rollout.logprobs is None or rollout.ref_logprobs is None:
        return None
    return precise(rollout.logprobs) - rollout.ref_logprobs


def _ratio_standard_error(sums: Array, counts: Array) -> float | None:
    """Of sum(sums) / sum(counts) with rows independent (the delta method; Cochran 1977, eq. 6.10)."""
    rows = len(sums)
    if rows < 2 or not np.isfinite(sums).all():
        return None
    residuals = sums - sums.sum() / counts.sum() * counts
    return float(np.sqrt(rows / (rows - 1) * np.square(residuals).sum()) / counts.sum())
