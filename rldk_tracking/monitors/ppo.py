"""PPO's diagnostics alone: rollouts, policy updates, critic, with the limits that the user names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rldk_tracking.health.presets import THRESHOLDS, checked_overrides
from rldk_tracking.messages.arguments import flag, number
from rldk_tracking.monitors.group import GroupMonitor
from rldk_tracking.monitors.view import Snapshot, of
from rldk_tracking.probes.base import Probe
from rldk_tracking.probes.optimizer import OptimizerProbe


@dataclass(frozen=True, slots=True)
class PPOMetrics(Snapshot):
    """The latest values of a PPO run; units and formulas stand in the key catalogue.

    Examples:
        >>> from rldk_tracking import PPOMetrics
        >>> metrics = PPOMetrics.from_row(7, {"rldk/kl/ref_k1": 0.5})
        >>> metrics.step, metrics.policy_kl_mean
        (7, 0.5)
    """

    rollout_reward_mean: float | None = of("rldk/reward/mean")
    rollout_reward_std: float | None = of("rldk/reward/std")
    rollout_reward_min: float | None = of("rldk/reward/min")
    rollout_reward_max: float | None = of("rldk/reward/max")
    rollout_length_mean: float | None = of("rldk/length/mean")
    token_efficiency: float | None = of("rldk/reward/per_token")
    policy_kl_mean: float | None = of("rldk/kl/ref_k1")
    policy_kl_per_sequence: float | None = of("rldk/kl/ref_per_sequence")
    policy_entropy_mean: float | None = of("rldk/policy/entropy")
    policy_clip_frac: float | None = of("rldk/policy/clip_fraction")
    policy_approx_kl: float | None = of("rldk/policy/approx_kl")
    value_loss: float | None = of("rldk/value/loss")
    value_mean: float | None = of("rldk/value/mean")
    value_explained_variance: float | None = of("rldk/value/explained_variance")
    advantage_mean: float | None = of("rldk/advantage/mean")
    advantage_std: float | None = of("rldk/advantage/std")
    grad_norm: float | None = of("rldk/grad/norm")
    learning_rate: float | None = of("rldk/update/learning_rate")
    training_stability: float | None = of("rldk/health/stability")
    policy_collapse_risk: float | None = of("rldk/health/policy_collapse_risk")
    reward_hacking_risk: float | None = of("rldk/health/reward_hacking_risk")


class PPOMonitor(GroupMonitor):
    """PPO diagnostics in one callback, alone or beside others.

    Groups of series (see `rldk-tracking keys`): those of `GroupMonitor`.

    Args:
        kl_threshold: nats per token; above it `kl.high` fires whatever the reward does. None leaves it to the rule.
        reward_threshold: a spread of the scores at or below it counts as no signal (`reward.no_signal`).
        gradient_threshold: a gradient norm above it counts as an explosion (`grad.explosion`).
        output_dir: a folder for the run's journal, JSON lines of everything that is logged.
        options: as for `GroupMonitor`.

    Raises:
        ValueError, TypeError: a threshold is negative or not a number, or another argument cannot be.

    Examples:
        >>> from rldk_tracking import PPOMonitor
        >>> monitor = PPOMonitor(kl_threshold=0.2)  # PPOTrainer(..., callbacks=[monitor])
        >>> monitor.metrics.policy_kl_mean is None  # nothing was measured yet
        True
    """

    def __init__(
        self,
        kl_threshold: float | None = None,
        reward_threshold: float | None = None,
        gradient_threshold: float | None = None,
        output_dir: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> None:
        given = {
            "kl_threshold": kl_threshold,
            "reward_threshold": reward_threshold,
            "gradient_threshold": gradient_threshold,
        }
        overrides = checked_overrides({} if options.get("overrides") is None else options["overrides"])
        for name, limit in given.items():
            if limit is not None:
                fields = overrides.setdefault(THRESHOLDS[name], {})
                fields.setdefault("threshold", float(number(name, limit, low=0)))
        options["overrides"] = overrides or None
        super().__init__(output_dir=output_dir, **options)

    @property
    def metrics(self) -> PPOMetrics:
        """The latest values; None where nothing was measured yet."""
        if self._run is None:
            return PPOMetrics()
        return PPOMetrics.from_row(self._run.latest_step, self._run.latest)


class AdvancedPPOMonitor(PPOMonitor):
    """`PPOMonitor` that judges sooner, and looks at gradients and updates as well.

    Args:
        kl_threshold: nats per token; above it `kl.high` fires whatever the reward does.
        enable_advanced_analytics: rules of the preset "strict", and the optimizer's diagnostics.
        options: as for `PPOMonitor`.

    Examples:
        >>> from rldk_tracking import AdvancedPPOMonitor
        >>> monitor = AdvancedPPOMonitor(kl_threshold=0.2)  # PPOTrainer(..., callbacks=[monitor])
        >>> monitor.alerts
        []
    """

    def __init__(
        self, kl_threshold: float | None = None, enable_advanced_analytics: bool = True, **options: Any
    ) -> None:
        if flag("enable_advanced_analytics", enable_advanced_analytics):
            options.setdefault("rules", "strict")
        super().__init__(kl_threshold=kl_threshold, **options)
        self._is_advanced = enable_advanced_analytics

    def make_probes(self) -> Sequence[Probe]:
        return [*super().make_probes(), *([OptimizerProbe("full")] if self._is_advanced else [])]
