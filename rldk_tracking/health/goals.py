"""Goals that the user names for a run, as rules: `{"target_reward": 1.0, "max_kl_divergence": 0.1}`.

| goal | series | tells |
|---|---|---|
| target_reward | rldk/reward/mean | once, as information, when it is reached |
| max_kl_divergence | rldk/kl/ref_k1, else ref_k3 (nats per token) | a warning while it is exceeded |
| max_clip_fraction | rldk/policy/clip_fraction | " |
| max_gradient_norm | rldk/grad/norm | " |
| max_truncated_fraction | rldk/length/truncated_fraction | " |
| max_step_seconds | rldk/throughput/step_seconds | " |
| min_entropy | rldk/policy/entropy (nats per token) | a warning while it is missed |
| min_explained_variance | rldk/value/explained_variance | " |
| min_reward | rldk/reward/mean | " |
"""

from __future__ import annotations

from collections.abc import Mapping

from rldk_tracking.health.rule import Rule, RuleError
from rldk_tracking.messages.arguments import mapping, nearest, number

GOALS: dict[str, tuple[str, ...]] = {
    "target_reward": ("rldk/reward/mean",),
    "max_kl_divergence": ("rldk/kl/ref_k1", "rldk/kl/ref_k3"),
    "max_clip_fraction": ("rldk/policy/clip_fraction",),
    "max_gradient_norm": ("rldk/grad/norm",),
    "max_truncated_fraction": ("rldk/length/truncated_fraction",),
    "max_step_seconds": ("rldk/throughput/step_seconds",),
    "min_entropy": ("rldk/policy/entropy",),
    "min_explained_variance": ("rldk/value/explained_variance",),
    "min_reward": ("rldk/reward/mean",),
}
PERSISTENCE = (3, 5)
"""A single batch beyond a goal is noise; three of five are not."""


def rules_of(goals: Mapping[str, float]) -> list[Rule]:
    """One rule `goal.<name>` for each goal.

    Raises:
        ValueError: an unknown goal, or a limit that cannot be one; the message names what there is.
    """
    try:
        given = mapping("performance_benchmarks", goals, 'performance_benchmarks={"target_reward": 1.0}')
        return [_rule(name, limit) for name, limit in given.items()]
    except TypeError as error:
        raise ValueError(str(error)) from None


def _rule(name: str, limit: object) -> Rule:
    if name not in GOALS:
        raise ValueError(f"performance_benchmarks knows no {name!r}{nearest(name, GOALS)}")
    argument = f"performance_benchmarks[{name!r}]"
    threshold = number(argument, limit)
    reached = name.startswith("target_")
    above = reached or name.startswith("max_")
    try:
        return Rule(
            id=f"goal.{name}",
            keys=GOALS[name],
            condition="level",
            parameters={"threshold": threshold, "direction": "above" if above else "below"},
            severity="info" if reached else "warning",
            persistence=PERSISTENCE,
            message="The goal is reached: {key} is {value:.4g}, wanted {threshold:.4g}."
            if reached
            else "{key} is {value:.4g}, beyond the {threshold:.4g} that was asked for.",
            advice="" if reached else "The limit is your own: performance_benchmarks.",
        )
    except RuleError as error:
        raise ValueError(f"{argument}: {error}") from None
