"""Which source fits a trainer."""

from __future__ import annotations

from typing import Any

from rldk_tracking.sources.logs import LogsSource, Source
from rldk_tracking.sources.trl_grpo import GroupSource
from rldk_tracking.sources.trl_ppo import PPOSource

GROUP_TRAINERS = {"GRPOTrainer", "RLOOTrainer"}


def source_for(trainer: Any) -> Source:
    """By the names of the trainer's class and its ancestors, so that TRL need not be imported; logs for all others."""
    names = {cls.__name__ for cls in type(trainer).__mro__}
    if names & GROUP_TRAINERS:
        return GroupSource(trainer)
    if "PPOTrainer" in names:
        return PPOSource(trainer)
    return LogsSource(trainer)
