"""axolotl's plugin: the callback in every trainer that axolotl makes, and what it hands over of scored rollouts.

plugins: [rldk_tracking.integrations.axolotl.RLDKPlugin]
rldk: {rules: strict, on_critical: stop}        # arguments of RLDKCallback; may be left out
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import BaseModel

from rldk_tracking.callback import RLDKCallback
from rldk_tracking.integrations import part_of_stack
from rldk_tracking.metrics import advantage, reward
from rldk_tracking.metrics.columns import Table
from rldk_tracking.monitors.base import Monitor
from rldk_tracking.probes.base import Probe, StepData
from rldk_tracking.rollout import Rollout
from rldk_tracking.sources.scoring import weights_of

BasePlugin: Any = part_of_stack("axolotl.integrations.base", "BasePlugin")


class RLDKArgs(BaseModel):
    """The plugin's own key in axolotl's configuration."""

    rldk: dict[str, Any] | None = None


class RLDKPlugin(BasePlugin):  # type: ignore[misc]
    """`plugins: [rldk_tracking.integrations.axolotl.RLDKPlugin]`."""

    def get_input_args(self) -> str:
        """For axolotl: the model that checks the plugin's keys."""
        return f"{__name__}.{RLDKArgs.__name__}"

    def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[RLDKCallback]:
        """The callback, unless the user has given the trainer one."""
        if any(isinstance(known, RLDKCallback) and not known.makes_way for known in trainer.callback_handler.callbacks):
            return []
        return [RLDKCallback(trainer=trainer, **(cfg.get("rldk") or {}))]

    def on_rollouts_scored(
        self,
        cfg: Any,
        trainer: Any,
        prompts: Sequence[str],
        completions: Sequence[str],
        rewards: Mapping[str, Sequence[float]],
        advantages: Sequence[float],
    ) -> None:
        """Take the scores of a step that is under way, on rank 0, of the completions of all ranks."""
        monitors = (known for known in trainer.callback_handler.callbacks if isinstance(known, Monitor))
        run = next((monitor.run for monitor in monitors if monitor.run is not None), None)
        if run is not None and advantages:
            with run.shield.at("on_rollouts_scored"):
                for probe in run.add_probes([ScoredProbe()]):
                    probe.take(trainer, rewards, advantages)  # type: ignore[attr-defined]


class ScoredProbe(Probe):
    """Rewards and advantages that axolotl hands over. They stand where those of its trainer could not be read."""

    def __init__(self) -> None:
        self._numbers: dict[str, float] = {}

    def take(self, trainer: Any, rewards: Mapping[str, Sequence[float]], advantages: Sequence[float]) -> None:
        """Of B completions, groups one after the other; what was scored last in a step stands for it."""
        self._numbers = numbers(
            rewards, advantages, weights_of(trainer, list(rewards)), getattr(trainer, "num_generations", None)
        )

    def collect(self, data: StepData) -> None:
        found, self._numbers = self._numbers, {}
        data.add(found, override=False)  # what the row has from tensors is put over these


def numbers(
    rewards: Mapping[str, Sequence[float]],
    advantages: Sequence[float],
    weights: Mapping[str, float],
    group_size: int | None = None,
) -> dict[str, float]:
    """`rldk/reward/...` and `rldk/advantage/...` of B completions.

    Args:
        rewards: function to B rewards, NaN where it abstained.
        advantages: B.
        weights: function to its weight; empty where all count alike.
        group_size: completions of one prompt, which stand one after the other.

    Examples:
        >>> found = numbers({"right": [1.0, 0.0, 1.0, 1.0]}, [1.0, -1.0, 0.0, 0.0], {}, group_size=2)
        >>> found["rldk/reward/mean"], found["rldk/reward/group_tied_fraction"]
        (0.75, 0.5)
    """
    rows = len(advantages)
    scored = {name: torch.tensor(values, dtype=torch.float64) for name, values in rewards.items()}
    weighted = torch.stack([values * weights.get(name, 1.0) for name, values in scored.items()])
    is_group = group_size is not None and group_size > 1 and rows % group_size == 0
    rollout = Rollout(
        mask=torch.ones(rows, 1),  # which neither of the two groups counts by
        scores=weighted.nansum(dim=0).masked_fill(weighted.isnan().all(dim=0), float("nan")),
        rewards=scored,
        reward_weights=weights,
        advantages=torch.tensor(advantages, dtype=torch.float64),
        group_ids=torch.arange(rows) // group_size if is_group and group_size is not None else None,
    )
    columns = {name: values.numpy() for group in (reward, advantage) for name, values in group.columns(rollout).items()}
    table = Table(columns, names=reward.names(rollout))
    return reward.compute(table) | advantage.compute(table)
