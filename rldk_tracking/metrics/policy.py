"""How sure of itself the policy is, and how far an optimiser step's policy is from the one that sampled.

Keys, read by `rldk_tracking.metrics.keys`:

    rldk/policy/entropy | nats per token | rollout
        How undecided the policy is. Exact on GRPO and RLOO, which compute it. On PPO an estimate from the sampled
        tokens: unbiased where they are drawn from pi itself, too low with top_p, top_k or min_p.
        = mean over forward passes of each one's mean over tokens of the entropy of pi; on PPO mean over tokens of -log
        pi(token)
    rldk/policy/logprob_min | nats | rollout | min over ranks
        The least likely token that was sampled.
        = minimum over tokens of log pi
    rldk/policy/clip_fraction | 1 | update | lower
        Share of what the loss weighs that it clips, so that it has no gradient (CISPO's capped tokens keep one): of
        tokens, in RLOO and GSPO of completions. With top_entropy_quantile only the tokens count that it leaves in.
        = clip_fraction_low + clip_fraction_high
    rldk/policy/clip_fraction_low | 1 | update | lower
        Share clipped on the way down.
        = share with w = pi / pi_old < 1 - epsilon_low (GMPO: log w < -epsilon_low) and advantage < 0; w is that of the
        completion in RLOO (product over tokens), GSPO and GSPO-token (geometric mean)
    rldk/policy/clip_fraction_high | 1 | update | lower
        Share clipped on the way up.
        = share with w > 1 + epsilon_high (GMPO: log w > epsilon_high) and advantage > 0; with delta w > min(delta, 1 +
        epsilon_high) and advantage > 0, or w > max(delta, 1 + epsilon_high) and advantage < 0; in CISPO w >
        epsilon_high, whatever the advantage
    rldk/policy/approx_kl | nats per token | update | lower
        How far the update has moved from the policy that sampled; TRL PPO's `policy/approxkl_avg` without padding.
        = mean over tokens of (log w)^2 / 2
    rldk/policy/ratio_mean | 1 | update
        Mean importance ratio; near 1 while the update stays near the policy that sampled.
        = mean of w over tokens (RLOO and GSPO: over completions; GSPO-token: of its completion's w at each token)
    rldk/policy/ratio_max | 1 | update | lower | max over ranks
        Largest importance ratio.
        = maximum of w over tokens (RLOO, GSPO and GSPO-token: of completions)
    rldk/policy/ess | 1 | update | higher
        Effective sample size over tokens, as a share of them, before any truncation; 1 where all ratios are equal.
        = (sum w)^2 / (n sum w^2)
    rldk/policy/ess_sequence | 1 | update | higher
        Effective sample size over completions, as a share of them; those that the loss leaves out whole
        (mask_truncated_completions) do not count.
        = (sum W)^2 / (n sum W^2), W the product of w over a completion's tokens, 1 for an empty one
    rldk/policy/first_epoch_ratio | 1 | update
        Must be 1: nothing has been trained yet. Anything else is a bug in how log-probabilities are recomputed.
        = mean over tokens of w, before the first optimizer step on a rollout

The entropy is taken from the first of these that the step has, in nats per token:

1. `PolicyUpdate.entropy`: exact, averaged over the forward passes of the loss as TRL's GRPO and RLOO log it, or over
   all tokens where the passes are not known;
2. `Rollout.entropy`: exact, over the response tokens of the rollout, which count as one pass;
3. `Rollout.logprobs`: the mean of -log pi(token). Tokens were drawn from pi, so it is an unbiased estimate (PPO).

GSPO: Zheng et al. 2025, eq. 7. GMPO: Zhao et al. 2025. ESS: Kong 1992. Which loss it is says `PolicyUpdate`. Clip
fractions are shares of what the loss weighs, the other ratios are of all response tokens or completions.

An empty completion is one: its w is the product of nothing, 1. One that the loss leaves out (`excluded`) counts
nowhere. Where old log-probabilities do not exist, ratios are 1 by construction and their keys are absent. Reads the
column length/tokens.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from rldk_tracking.metrics.columns import (
    Table,
    count_of,
    finite,
    highest,
    masked_sum,
    precise,
    square_sum,
    where_masked,
)
from rldk_tracking.metrics.statistics import Array
from rldk_tracking.rollout import PolicyUpdate, Rollout

COLUMNS = ("policy/entropy", "policy/surprise_max")
RATIO_COLUMNS = (
    "ratio/tokens",
    "ratio/units",
    "ratio/clip_units",
    "ratio/clipped_low",
    "ratio/clipped_high",
    "ratio/square",
    "ratio/log_max",
    "ratio/log_sum",
    "ratio/log_norm",
    "ratio/log_product",
    "ratio/log_unit_sum",
    "ratio/first_epoch",
)
ENTROPY_COLUMNS = ("policy/update_entropy", "policy/update_pass")
UPDATE_COLUMNS = (*RATIO_COLUMNS, *ENTROPY_COLUMNS)
FIELDS = ("logprobs", "entropy")


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
    """(N,) sums over the tokens of the loss, of ratios and of the entropy."""
    return ratio_columns(update) | entropy_columns(update)


def entropy_columns(update: PolicyUpdate) -> dict[str, Tensor]:
    """(N,) sums over the tokens of the loss, and the forward pass that each row was in; empty without entropy."""
    if update.entropy is None:
        return {}
    found = {"policy/update_entropy": masked_sum(update.entropy, update.mask)}
    if update.micro_batch is not None:
        found["policy/update_pass"] = precise(update.micro_batch)
    return found


def compute(table: Table) -> dict[str, float]:
    """The keys that follow from the rollout alone."""
    surprise = table.get("policy/surprise_max")
    lowest = -float(np.nanmax(surprise)) if surprise is not None else math.nan
    return {"rldk/policy/logprob_min": lowest} if math.isfinite(lowest) else {}


def compute_update(rollout: Table, update: Table) -> dict[str, float]:
    """The keys for which the optimiser step is needed, and the entropy, where either table has one."""
    entropy = _mean_over_passes(update)
    if entropy is None:
        entropy = rollout.ratio("policy/entropy", "length/tokens")
    return compute_ratios(update) | ({} if entropy is None else {"rldk/policy/entropy": entropy})


def _mean_over_passes(update: Table) -> float | None:
    passes = update.get("policy/update_pass")
    if passes is None:
        return update.ratio("policy/update_entropy", "ratio/tokens")
    names = ("policy/update_entropy", "ratio/tokens")
    parts = [Table({name: update.columns[name][passes == one] for name in names}) for one in sorted(set(passes))]
    means = [mean for part in parts if (mean := part.ratio(*names)) is not None]
    return sum(means) / len(means) if means else None


def ratio_columns(update: PolicyUpdate) -> dict[str, Tensor]:
    """(N,) sums over the tokens of the loss, or over its units: its tokens, or with `sequence_level` the completion.

    The sum and the Euclidean norm of the ratios are kept as logarithms: they may be out of range. Logarithms of a
    completion whose mask is empty mean nothing.
    """
    mask = update.mask.bool()
    tokens = count_of(mask)
    if update.old_logprobs is None:
        return {"ratio/tokens": tokens}
    log_ratio = precise(update.new_logprobs) - update.old_logprobs
    counted, present = where_masked(log_ratio, mask), where_masked(log_ratio, mask, -math.inf)
    product, square = counted.sum(dim=1), square_sum(counted) / 2
    log_max, log_sum, log_norm = _log_sums(present)
    units, log_unit_sum = tokens, log_sum
    weighed = mask if update.loss_mask is None else mask & update.loss_mask.bool()
    if update.sequence_level:
        log_max = product / tokens if update.geometric_mean else product
        log_ratio = log_max[:, None]
        if update.clips_tokens:
            log_ratio, log_unit_sum = log_ratio.expand(mask.shape), log_max + tokens.log()
        else:
            units, log_unit_sum = tokens.clamp(max=1), log_max
            weighed = weighed.any(dim=1, keepdim=True)
    found = {
        "ratio/tokens": tokens,
        "ratio/units": units,
        "ratio/square": square,
        "ratio/log_max": log_max,
        "ratio/log_sum": log_sum,
        "ratio/log_norm": log_norm,
        "ratio/log_product": product if update.excluded is None else product.masked_fill(update.excluded, math.nan),
        "ratio/log_unit_sum": log_unit_sum,
        "ratio/first_epoch": torch.full_like(tokens, float(update.first_epoch)),
    }
    return found | _clip_columns(update, log_ratio, weighed, product.isnan())


def compute_ratios(table: Table) -> dict[str, float]:
    """The keys of the ratios that exist for the table of an optimiser step.

    >>> tokens = torch.zeros(1, 4)
    >>> ratios = torch.tensor([[0.5, 1.0, 1.0, 1.5]])
    >>> update = PolicyUpdate(torch.ones(1, 4), ratios.log(), tokens, torch.ones(1), clip_low=0.2, clip_high=0.2)
    >>> table = Table({name: column.numpy() for name, column in ratio_columns(update).items()})
    >>> found = compute_ratios(table)
    >>> found["rldk/policy/clip_fraction"], round(found["rldk/policy/ratio_max"], 3)
    (0.25, 1.5)
    """
    low, high = (table.ratio(f"ratio/clipped_{side}", "ratio/clip_units") for side in ("low", "high"))
    sides = [share for share in (low, high) if share is not None]
    metrics: dict[str, float | None] = {
        "rldk/policy/clip_fraction_low": low,
        "rldk/policy/clip_fraction_high": high,
        "rldk/policy/clip_fraction": sum(sides) if sides else None,
        "rldk/policy/approx_kl": table.ratio("ratio/square", "ratio/tokens"),
    }
    names = ("tokens", "units", "log_sum", "log_norm", "log_product", "log_unit_sum", "log_max", "first_epoch")
    columns = [column for name in names if (column := table.get(f"ratio/{name}")) is not None]
    if len(columns) < len(names):
        return finite(metrics)
    completions = columns[4][~np.isnan(columns[4])]
    known = (columns[0] > 0) & ~np.isnan(columns[2])
    tokens, units, log_sum, log_norm, _, log_unit_sum, log_max, first_epoch = (c[known] for c in columns)
    first = first_epoch == 1.0
    metrics["rldk/policy/ess"] = _sample_size(log_sum, 2 * log_norm, float(tokens.sum()))
    metrics["rldk/policy/ess_sequence"] = _sample_size(completions, 2 * completions, float(len(completions)))
    metrics["rldk/policy/ratio_mean"] = _mean_of_exp(log_unit_sum, float(units.sum()))
    metrics["rldk/policy/ratio_max"] = _exp(float(log_max.max()))
    metrics["rldk/policy/first_epoch_ratio"] = _mean_of_exp(log_sum[first], float(tokens[first].sum()))
    return finite(metrics)


def _log_sums(log_values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(N,) the largest, and the logarithms of the sum and of the Euclidean norm of exp(x); -inf counts nowhere."""
    largest = highest(log_values)
    shift = largest.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    weights = (log_values - shift[:, None]).exp_()
    sums = torch.stack([weights.sum(dim=1), torch.linalg.vector_norm(weights, dim=1)])
    log_sum, log_norm = sums.log() + shift
    return largest, log_sum, log_norm


def _clip_columns(update: PolicyUpdate, log_ratio: Tensor, weighed: Tensor, unknown: Tensor) -> dict[str, Tensor]:
    """(N,) numbers of units clipped on either side, where it is known what a unit's advantage is, and of all units.

    Args:
        log_ratio: (N, U) log w of each unit.
        weighed: (N, U) bool, the units that the loss weighs.
        unknown: (N,) bool, True where some log w is NaN.
    """
    advantages, mask = update.advantages, update.mask.bool()
    if advantages is None:
        return {}
    if advantages.ndim == 2 and weighed.shape != mask.shape:
        advantages = masked_sum(advantages, mask)
    missing = advantages.isnan()
    unknown = unknown | (missing if missing.ndim == 1 else (missing & mask).any(dim=1))
    found = {"ratio/clip_units": count_of(weighed)}
    if update.clip_low is not None:
        below = where_masked(log_ratio, weighed, math.inf) < _log(1 - update.clip_low)
        found["ratio/clipped_low"] = _count(below, advantages < 0).masked_fill(unknown, math.nan)
    if update.clip_high is not None:
        limit, delta = 1 + update.clip_high, update.clip_delta
        present = where_masked(log_ratio, weighed, -math.inf)
        if update.capped:
            above = count_of(present > _log(limit))
        elif delta is None:
            above = _count(present > _log(limit), advantages > 0)
        else:
            above = _count(present > _log(min(limit, delta)), advantages > 0)
            above = above + _count(present > _log(max(limit, delta)), advantages < 0)
        found["ratio/clipped_high"] = above.masked_fill(unknown, math.nan)
    return found


def _log(limit: float) -> float:
    """Of a limit of the ratio; -inf where every ratio lies above it."""
    return math.log(limit) if limit > 0 else -math.inf


def _count(units: Tensor, signs: Tensor) -> Tensor:
    """(N,) how many of the (N, U) units are True, where the sign, (N, U) or one for all (N,), is True too."""
    return count_of(units) * signs if signs.ndim == 1 else count_of(units & signs)


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
