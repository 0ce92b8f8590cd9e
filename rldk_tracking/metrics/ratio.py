"""How far an optimiser step's policy is from the one that sampled: ratios, clipping, effective sample size.

With w = pi_new(token) / pi_old(token) over the tokens that the loss counts:

| key | formula |
|---|---|
| rldk/policy/entropy | exact: mean over the step's forward passes of each one's mean over tokens, as TRL logs it |
| rldk/policy/clip_fraction_low | share with w < 1 - clip_low and advantage < 0 |
| rldk/policy/clip_fraction_high | share with w > 1 + clip_high and advantage > 0 |
| rldk/policy/clip_fraction | the two together: the share that the objective gives no gradient |
| rldk/policy/approx_kl | mean over tokens of (log w)^2 / 2, as TRL's PPO but without padding; Schulman's k2 |
| rldk/policy/ratio_mean, ratio_max | of w |
| rldk/policy/ess | (sum w)^2 / (n sum w^2) over tokens, before any truncation (Kong 1992) |
| rldk/policy/ess_sequence | the same over completions, with w the product over a completion's tokens |
| rldk/policy/first_epoch_ratio | mean of w over tokens, of rows that no optimiser step lies before; must be 1 |

Where the trainer clips one ratio a completion (`sequence_level`), the clip fractions and ratio_mean and ratio_max count
completions, with w the product over tokens as in TRL's RLOO, or their geometric mean as in GSPO (Zheng et al. 2025,
eq. 7). Completions whose mask is empty count nowhere.
Where old log-probabilities do not exist, ratios are 1 by construction and only the entropy is there.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from rldk_tracking.metrics.table import Array, Table, masked_max, masked_sum, precise
from rldk_tracking.rollout import PolicyUpdate

UPDATE_COLUMNS = (
    "ratio/tokens",
    "ratio/entropy",
    "ratio/micro_batch",
    "ratio/clip_units",
    "ratio/clipped_low",
    "ratio/clipped_high",
    "ratio/square",
    "ratio/log_max",
    "ratio/log_sum",
    "ratio/log_square_sum",
    "ratio/log_product",
    "ratio/log_unit",
    "ratio/sequence_level",
    "ratio/first_epoch",
)


def columns(update: PolicyUpdate) -> dict[str, Tensor]:
    """(N,) sums over the tokens of the loss. Sums of ratios are kept as logarithms: they may be out of range."""
    mask = update.mask.bool()
    tokens = precise(mask).sum(dim=1)
    found = {"ratio/tokens": tokens}
    if update.entropy is not None:
        found["ratio/entropy"] = masked_sum(update.entropy, mask)
        if update.micro_batch is not None:
            found["ratio/micro_batch"] = precise(update.micro_batch)
    if update.old_logprobs is None:
        return found
    log_ratio = precise(update.new_logprobs) - precise(update.old_logprobs)
    empty = tokens == 0
    product = masked_sum(log_ratio, mask).masked_fill(empty, math.nan)
    sequence = product / tokens if update.geometric_mean else product
    found |= {
        "ratio/square": masked_sum(log_ratio.square() / 2, mask),
        "ratio/log_max": sequence if update.sequence_level else masked_max(log_ratio, mask),
        "ratio/log_sum": _log_sum(log_ratio, mask, empty),
        "ratio/log_square_sum": _log_sum(2 * log_ratio, mask, empty),
        "ratio/log_product": product,
        "ratio/log_unit": sequence,
        "ratio/sequence_level": torch.full_like(tokens, float(update.sequence_level)),
        "ratio/first_epoch": torch.full_like(tokens, float(update.first_epoch)),
    }
    return found | _clip_columns(update, mask, log_ratio, sequence)


def compute(table: Table) -> dict[str, float]:
    """The keys of this group that exist for this table."""
    metrics: dict[str, float | None] = {
        "rldk/policy/entropy": _entropy(table),
        "rldk/policy/clip_fraction_low": table.ratio("ratio/clipped_low", "ratio/clip_units"),
        "rldk/policy/clip_fraction_high": table.ratio("ratio/clipped_high", "ratio/clip_units"),
        "rldk/policy/approx_kl": table.ratio("ratio/square", "ratio/tokens"),
    }
    low, high = metrics["rldk/policy/clip_fraction_low"], metrics["rldk/policy/clip_fraction_high"]
    if low is not None and high is not None:
        metrics["rldk/policy/clip_fraction"] = low + high
    names = ("tokens", "log_sum", "log_square_sum", "log_product", "log_unit", "log_max", "first_epoch")
    columns = [column for name in names if (column := table.get(f"ratio/{name}")) is not None]
    if len(columns) < len(names):
        return _finite(metrics)
    tokens, log_sum, log_square_sum, product, unit, log_max, first_epoch = columns
    known = ~np.isnan(log_sum)
    count = float(tokens[known].sum())
    metrics["rldk/policy/ess"] = _sample_size(log_sum[known], log_square_sum[known], count)
    metrics["rldk/policy/ess_sequence"] = _sample_size(product[known], 2 * product[known], float(known.sum()))
    if table.total("ratio/sequence_level"):
        metrics["rldk/policy/ratio_mean"] = _mean_of_exp(unit[known], float(known.sum()))
    else:
        metrics["rldk/policy/ratio_mean"] = _mean_of_exp(log_sum[known], count)
    metrics["rldk/policy/ratio_max"] = _exp(float(np.nanmax(log_max)))
    first = known & (first_epoch == 1.0)
    metrics["rldk/policy/first_epoch_ratio"] = _mean_of_exp(log_sum[first], float(tokens[first].sum()))
    return _finite(metrics)


def _entropy(table: Table) -> float | None:
    passes = table.get("ratio/micro_batch")
    if passes is None:
        return table.ratio("ratio/entropy", "ratio/tokens")
    parts = [
        Table({name: table.columns[name][passes == one] for name in ("ratio/entropy", "ratio/tokens")})
        for one in sorted(set(passes))
    ]
    means = [mean for part in parts if (mean := part.ratio("ratio/entropy", "ratio/tokens")) is not None]
    return sum(means) / len(means) if means else None


def _clip_columns(update: PolicyUpdate, mask: Tensor, log_ratio: Tensor, sequence: Tensor) -> dict[str, Tensor]:
    """Numbers of units clipped on either side, where it is known what a unit's advantage is."""
    if update.advantages is None:
        return {}
    tokens = precise(mask).sum(dim=1)
    advantages = precise(update.advantages)
    if update.sequence_level:
        units = precise(mask.any(dim=1))
        if advantages.ndim == 2:
            advantages = masked_sum(advantages, mask) / tokens
        ratio, advantages, counted = sequence.exp()[:, None], advantages[:, None], mask.any(dim=1, keepdim=True)
    else:
        units = tokens
        ratio, counted = log_ratio.exp(), mask
        advantages = advantages[:, None] if advantages.ndim == 1 else advantages
    unknown = ((ratio.isnan() | advantages.isnan()) & counted).any(dim=1)
    found = {"ratio/clip_units": units}
    if update.clip_low is not None:
        low = (ratio < 1 - update.clip_low) & (advantages < 0)
        found["ratio/clipped_low"] = masked_sum(low, counted).masked_fill(unknown, math.nan)
    if update.clip_high is not None:
        high = (ratio > 1 + update.clip_high) & (advantages > 0)
        found["ratio/clipped_high"] = masked_sum(high, counted).masked_fill(unknown, math.nan)
    return found


def _log_sum(log_values: Tensor, mask: Tensor, empty: Tensor) -> Tensor:
    """(N,) Logarithm of the sum of exponentials over the mask, NaN where it is empty."""
    if log_values.shape[1] == 0:
        return torch.full_like(log_values.sum(dim=1), math.nan)
    return log_values.masked_fill(~mask, -math.inf).logsumexp(dim=1).masked_fill(empty, math.nan)


def _log_total(log_values: Array) -> float:
    highest = float(log_values.max())
    return highest + math.log(float(np.exp(log_values - highest).sum())) if math.isfinite(highest) else math.nan


def _sample_size(log_sums: Array, log_square_sums: Array, count: float) -> float | None:
    """Effective sample size over `count` weights, as a share of `count`."""
    if count == 0 or len(log_sums) == 0:
        return None
    return _exp(2 * _log_total(log_sums) - _log_total(log_square_sums) - math.log(count))


def _mean_of_exp(log_sums: Array, count: float) -> float | None:
    return _exp(_log_total(log_sums) - math.log(count)) if count > 0 and len(log_sums) else None


def _exp(value: float) -> float | None:
    """None where the exponential is out of double precision's range."""
    return math.exp(value) if value < 700 else None


def _finite(metrics: dict[str, float | None]) -> dict[str, float]:
    return {key: value for key, value in metrics.items() if value is not None and math.isfinite(value)}
