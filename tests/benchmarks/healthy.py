"""Configurations of runs in which nothing is wrong, for GRPO, RLOO and PPO."""

from __future__ import annotations

import time
from typing import Any

import interventions as to
import torch

STEPS = 60


def _slow(trainer: Any, step: int) -> None:
    """Steps of very different length, as on a machine that others use too: half as long again, now and then thrice."""
    count = 0

    def wait() -> None:
        nonlocal count
        count += 1
        time.sleep(0.6 if count % 9 == 0 else 0.1 * (count % 3))

    trainer.add_callback(to.Before(trainer, step, wait, every=True))


def _easily(scores: torch.Tensor, since: int) -> torch.Tensor:
    """Half of the task earns all of the reward: solved within some twenty steps."""
    return (2.0 * scores).clamp(max=1.0)


GROUP: dict[str, dict[str, Any]] = {
    "small lr": {"learning_rate": 3e-4},
    "large lr": {"learning_rate": 5e-3},
    "beta 0": {"beta": 0.0},
    "several iterations": {"num_iterations": 2},
    "accumulation": {"gradient_accumulation_steps": 4, "per_device_train_batch_size": 8},
    "sparse logs": {"logging_steps": 5},
    "solved early": to.rewards(_easily)[0]("grpo", 1),
    "slow": {"apply": _slow},
}
HEALTHY: dict[str, dict[str, dict[str, Any]]] = {
    "grpo": GROUP,
    "rloo": GROUP,
    "ppo": {
        "small lr": {"learning_rate": 1e-4},
        "large lr": {"learning_rate": 2e-3},
        "beta 0": {"kl_coef": 0.0},
        "several iterations": {"num_ppo_epochs": 4},
        "accumulation": {"gradient_accumulation_steps": 8, "per_device_train_batch_size": 4},
        "sparse logs": {"logging_steps": 5},
        "solved early": {"apply": to.rewards(_easily)[1]},
        "slow": {"apply": _slow},
    },
}
"""Trainer to name to keywords of its factory; `apply` is called with the trainer and step 1."""
