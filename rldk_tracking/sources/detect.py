"""Which source fits a trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rldk_tracking.sources.logs import LogsSource, Source
from rldk_tracking.sources.trl_grpo import LOGPROBS, GroupSource
from rldk_tracking.sources.trl_ppo import PPOSource
from rldk_tracking.sources.wrapping import SCORING

GROUP_TRAINERS = {"GRPOTrainer", "RLOOTrainer"}


def source_for(trainer: Any) -> Source:
    """By the names of the trainer's class and its ancestors, so that TRL need not be imported; logs for all others."""
    names = {cls.__name__ for cls in type(trainer).__mro__}
    if names & GROUP_TRAINERS or _scores_groups(trainer):
        return GroupSource(trainer)
    if "PPOTrainer" in names:
        return PPOSource(trainer)
    return LogsSource(trainer)


def _scores_groups(trainer: Any) -> bool:
    """Whether it has what is read of GRPO, whatever its class is called, as Unsloth's copies of TRL's trainers have."""
    logs = getattr(trainer, "_logs", None)
    has_methods = callable(getattr(trainer, SCORING, None)) and callable(getattr(trainer, LOGPROBS, None))
    return has_methods and isinstance(logs, Mapping) and "rewards" in logs and hasattr(trainer, "num_generations")
