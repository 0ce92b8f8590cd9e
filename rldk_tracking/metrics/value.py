"""How well the critic predicts returns.

Keys, read by `rldk_tracking.metrics.keys`:

    rldk/value/mean | reward | rollout
        The critic's predictions.
        = mean over tokens of V; as all of rldk/value/ over one position more than the response in TRL's PPO
    rldk/value/std | reward | rollout
        Spread of the critic's predictions.
        = standard deviation (n - 1) over tokens
    rldk/value/loss | reward^2 | logs | lower
        The critic's loss.
        = the trainer's own, averaged over the minibatches that ran
    rldk/value/clip_fraction | 1 | logs | lower
        Share of tokens at which the critic's loss is clipped.
        = the trainer's own, averaged over the minibatches that ran
    rldk/value/explained_variance | 1 | rollout | higher
        How much of the returns the critic predicts: 1 all, 0 no more than a constant, below 0 less than that.
        = 1 - Var(R - V) / Var(R) over all tokens of the batch
    rldk/value/bias | reward | rollout
        Above 0 the critic expects too little.
        = mean over tokens of R - V
    rldk/value/value_reward_corr | 1 | rollout | higher
        Whether the critic tells good completions from bad ones.
        = Pearson over completions of the mean of V over tokens with the score

Variances are taken over all tokens of the batch, not averaged over parts of it. The correlation takes the mean
prediction of a completion because a critic that knows good from bad completions should know all along the way.
It reads the column reward/score. `rldk/value/loss` and `clip_fraction` come from the trainer alone.
"""

from __future__ import annotations

from torch import Tensor

from rldk_tracking.metrics.columns import Table, finite, merge_moments, moment_columns, moment_names, precise
from rldk_tracking.metrics.statistics import pearson
from rldk_tracking.rollout import Rollout

COLUMNS = (*moment_names("value/value"), *moment_names("value/return"), *moment_names("value/error"))
FIELDS = ("values", "returns")


def columns(rollout: Rollout) -> dict[str, Tensor]:
    """(B,) moments over tokens of the predictions, the targets and their difference."""
    mask = rollout.value_mask if rollout.value_mask is not None else rollout.mask
    found: dict[str, Tensor] = {}
    if rollout.values is not None:
        found |= moment_columns("value/value", rollout.values, mask)
    if rollout.returns is not None:
        found |= moment_columns("value/return", rollout.returns, mask)
    if rollout.values is not None and rollout.returns is not None:
        found |= moment_columns("value/error", precise(rollout.returns) - rollout.values, mask)
    return found


def compute(table: Table) -> dict[str, float]:
    """The keys of this group that exist for this table.

    >>> import torch
    >>> of_token = torch.tensor([[1.0, 2.0, 3.0]])
    >>> rollout = Rollout(torch.ones(1, 3), values=0.5 * of_token, returns=of_token)
    >>> table = Table({name: column.numpy() for name, column in columns(rollout).items()})
    >>> found = compute(table)
    >>> found["rldk/value/explained_variance"], found["rldk/value/bias"]
    (0.75, 1.0)
    """
    metrics: dict[str, float | None] = {}
    values, errors = merge_moments(table, "value/value"), merge_moments(table, "value/error")
    returns = merge_moments(table, "value/return")
    if values is not None:
        metrics["rldk/value/mean"] = values.mean
        metrics["rldk/value/std"] = values.std
    if errors is not None:
        metrics["rldk/value/bias"] = errors.mean
    if errors is not None and returns is not None and not returns.constant and errors.count == returns.count:
        metrics["rldk/value/explained_variance"] = 1 - errors.deviation / returns.deviation
    predictions, scores = table.get("value/value/mean"), table.get("reward/score")
    if predictions is not None and scores is not None:
        metrics["rldk/value/value_reward_corr"] = pearson(predictions, scores)
    return finite(metrics)
