"""Which source fits a trainer: by the methods and variables that it has, whatever its class is called."""

from __future__ import annotations

import importlib.metadata
from typing import Any

from rldk_tracking.sources.contract import contract_of
from rldk_tracking.sources.logs import LogsSource, Source
from rldk_tracking.sources.loss_pass import logprobs_of
from rldk_tracking.sources.reward_functions import REWARDS
from rldk_tracking.sources.scoring import logs_of
from rldk_tracking.sources.trl_async import AsyncSource
from rldk_tracking.sources.trl_grpo import GroupSource
from rldk_tracking.sources.trl_ppo import PPOSource
from rldk_tracking.sources.wrapping import SCORING, local_variables

LOOP = {"padding_mask", "ref_logprobs"}
"""Variables of a training loop that keeps a whole rollout, as PPO's."""
QUEUED = ("rollout_queue", "model_version")
"""What a trainer has that takes completions from a queue, and knows which of its weights sampled them."""


def source_for(trainer: Any) -> Source:
    """The source that reads most of it; the logs alone of a trainer that is like none.

    What a trainer has may still not be what it seems: a source says what it could not read when it tries.
    """
    if _scores_completions(trainer):
        return GroupSource(trainer)
    if all(hasattr(trainer, name) for name in QUEUED) and "old_log_probs" in local_variables(trainer, "compute_loss"):
        return AsyncSource(trainer)
    if local_variables(trainer, "train") >= LOOP:
        return PPOSource(trainer)
    return LogsSource(trainer, contract_of(trainer))


def _scores_completions(trainer: Any) -> bool:
    """Whether it has what is read of GRPO: completions that are sampled or trained on, and rewards of them."""
    samples = any(callable(getattr(trainer, name, None)) for name in (SCORING, logprobs_of(trainer)))
    return samples and (callable(getattr(trainer, REWARDS, None)) or "rewards" in logs_of(trainer))


def package_of(trainer: Any) -> str:
    """The package that its class, or the nearest one above it, comes from, with its version."""
    for kind in type(trainer).__mro__:
        package = kind.__module__.partition(".")[0]
        try:
            return f"{package} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return "of no package"
