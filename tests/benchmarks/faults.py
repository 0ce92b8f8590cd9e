"""Healthy configurations, and faults beyond those of the demo, for real GRPO, RLOO and PPO runs of the tiny model.

A fault changes the trainer, its model, its gradients or its reward, from a step on. Each names the rules that are right
about it: one of them must fire.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rldk_tracking.demo.faults import FAULTS, Fault, reward_from
from rldk_tracking.demo.task import reward

HEALTHY: dict[str, dict[str, dict[str, Any]]] = {
    "grpo": {
        "default": {},
        "small-lr": {"learning_rate": 3e-4},
        "large-lr": {"learning_rate": 5e-3},
        "beta-0": {"beta": 0.0},
        "iterations": {"num_iterations": 2},
        "accumulation": {"gradient_accumulation_steps": 4, "per_device_train_batch_size": 8},
        "sparse-logs": {"logging_steps": 5},
        "solved": {"max_steps": 150},
    },
    "rloo": {"default": {}, "small-lr": {"learning_rate": 3e-4}, "iterations": {"num_iterations": 2}},
    "ppo": {"default": {}, "small-lr": {"learning_rate": 1e-4}, "epochs": {"num_ppo_epochs": 4}},
}


def after_step(step: int, action: Callable[[Any], None], every: bool = False) -> Any:
    """A callback that calls `action(trainer's model)` after step number `step`, or after each from it on."""
    from transformers import TrainerCallback

    class AfterStep(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            if state.global_step == step or (every and state.global_step > step):
                action(model)

    return AfterStep()


def _gradients(factor: float, once: bool = False) -> Callable[[Any, int], None]:
    """From the step on, or in that step alone, every gradient is multiplied before the trainer sees it."""

    def apply(trainer: Any, step: int) -> None:
        def change(gradient: Any) -> Any:
            now = trainer.state.global_step + 1
            return gradient * factor if (now == step if once else now >= step) else gradient

        for parameter in trainer.model.parameters():
            parameter.register_hook(change)

    return apply


def _no_gradient_in_a_layer(trainer: Any, step: int) -> None:
    def change(gradient: Any) -> Any:
        return gradient * 0.0 if trainer.state.global_step + 1 >= step else gradient

    for parameter in trainer.model.model.layers[0].parameters():
        parameter.register_hook(change)


def _critic(change: Callable[[Any], None]) -> Callable[[Any, int], None]:
    def apply(trainer: Any, step: int) -> None:
        trainer.add_callback(after_step(step - 1, lambda model: change(trainer.value_model.score.weight.data)))

    return apply


def _leak(trainer: Any, step: int) -> None:
    kept: list[bytearray] = []

    def keep(model: Any) -> None:
        kept.append(bytearray(b"1" * 25_000_000))
        gc.collect()

    trainer.add_callback(after_step(step, keep, every=True))


def _rewards(change: Callable[[list[float]], list[float]]) -> Callable[[int], Mapping[str, Any]]:
    return lambda step: {"reward_funcs": reward_from(step, change)}


def _drifting(step: int) -> Mapping[str, Any]:
    def drifting(prompts: Any, completions: Any, trainer_state: Any = None, **kwargs: Any) -> list[float]:
        over = max(0, trainer_state.global_step + 1 - step) if trainer_state is not None else 0
        return [score * max(0.0, 1.0 - 0.05 * over) for score in reward(prompts, completions)]

    return {"reward_funcs": drifting}


def _shortcut(step: int) -> Mapping[str, Any]:
    """A proxy that pays for zeros, whatever was asked."""

    def shortcut(prompts: Any, completions: Any, trainer_state: Any = None, **kwargs: Any) -> list[float]:
        if trainer_state is None or trainer_state.global_step + 1 < step:
            return reward(prompts, completions)
        return [min(1.0, completion.count("0") / 4) for completion in completions]

    return {"reward_funcs": shortcut}


def gold(prompts: Any, completions: Any) -> list[float]:
    """The task's own reward, held out."""
    return reward(prompts, completions)


@dataclass(frozen=True)
class Injected:
    """A fault with the trainers that it fits, and options of the callback and of the run's length."""

    fault: Fault
    kinds: tuple[str, ...] = ("grpo", "rloo")
    options: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 60


MORE = (
    Injected(Fault("reward-sign", "the reward is negated", ("reward.collapse",), _rewards(lambda s: [-x for x in s]))),
    Injected(Fault("reward-drift", "the reward fades away", ("reward.collapse", "reward.no_signal"), _drifting)),
    Injected(
        Fault("shortcut", "the reward pays for zeros", ("reward.hacking",), _shortcut),
        kinds=("grpo",),
        options={"gold_score_fn": gold},
        steps=90,
    ),
    Injected(
        Fault(
            "grad-explosion",
            "one step's gradients are 10,000 times as large",
            ("grad.explosion",),
            apply=_gradients(1e4, once=True),
        ),
    ),
    Injected(
        Fault(
            "grad-vanishing", "gradients are a millionth of what they were", ("grad.vanishing",), apply=_gradients(1e-6)
        )
    ),
    Injected(
        Fault("frozen-layer", "a layer gets no gradient", ("grad.flow", "update.frozen"), apply=_no_gradient_in_a_layer)
    ),
    Injected(
        Fault("nan-gradient", "gradients become NaN", ("nan.gradients", "nan.weights"), apply=_gradients(float("nan")))
    ),
    Injected(
        Fault(
            "outlier",
            "one completion's reward is 1,000",
            ("advantage.scale",),
            lambda step: {**_rewards(lambda s: [1000.0, *s[1:]])(step), "scale_rewards": "none"},
        ),
        kinds=("grpo",),
    ),
    Injected(
        Fault(
            "lr-too-high",
            "the learning rate is 30 times too high from the start",
            ("kl.high", "reward.collapse", "policy.collapse", "length.truncated", "reward.no_signal"),
            lambda step: {"learning_rate": 0.09},
            from_start=True,
        )
    ),
    Injected(
        Fault("memory-leak", "25 MB more are kept every step", ("memory.leak",), apply=_leak), ("grpo",), steps=150
    ),
    Injected(
        Fault(
            "dead-critic",
            "the critic's head becomes noise",
            ("value.explained_variance", "value.loss"),
            apply=_critic(lambda weight: weight.normal_(0.0, 1.0)),
        ),
        kinds=("ppo",),
    ),
    Injected(
        Fault(
            "critic-explodes",
            "the critic's head becomes 50 times as large",
            ("value.loss", "value.explained_variance"),
            apply=_critic(lambda weight: weight.mul_(50.0)),
        ),
        kinds=("ppo",),
    ),
)

INJECTED: dict[str, Injected] = {
    **{name: Injected(fault, ("grpo",)) for name, fault in FAULTS.items()},
    **{injected.fault.name: injected for injected in MORE},
}
"""Name to fault."""
