"""Faults to put into a GRPO run, each with the rules that are right about it.

A fault is a change of the trainer's settings, of its reward function, or of the trainer itself, before training or from
a step on. What it does is what goes wrong in real runs, not a number written into the logs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rldk_tracking.demo.task import reward

if TYPE_CHECKING:
    from transformers import Trainer, TrainerCallback


def _unchanged(trainer: Trainer, step: int) -> None:
    """The trainer stays as it is."""


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        name: what the user types.
        summary: what happens, in a few words.
        rules: ids of which at least one must fire, with a severity above info.
        settings: keywords for `grpo_trainer`, given the step at which the fault begins.
        apply: changes the trainer before training, or gives it a callback that does so at the step.
        from_start: True where the fault is there before the first step.
    """

    name: str
    summary: str
    rules: tuple[str, ...]
    settings: Callable[[int], Mapping[str, Any]] = field(default=lambda step: {})
    apply: Callable[[Trainer, int], None] = _unchanged
    from_start: bool = False


def at_step(step: int, action: Callable[[Any, Any], None], every: bool = False) -> TrainerCallback:
    """A callback that calls `action(model, optimizer)` before the optimiser step number `step`, or from it on."""
    from transformers import TrainerCallback

    class AtStep(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(
            self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **kwargs: Any
        ) -> None:
            now = state.global_step + 1
            if now == step or (every and now > step):
                action(model, optimizer)

    return AtStep()


def reward_from(step: int, change: Callable[[list[float]], list[float]]) -> Callable[..., list[float]]:
    """The task's reward, passed through `change` from the optimiser step number `step` on."""

    def digit_reward(
        prompts: list[str], completions: list[str], trainer_state: Any = None, **kwargs: Any
    ) -> list[float]:
        scores = reward(prompts, completions)
        return change(scores) if trainer_state is not None and trainer_state.global_step + 1 >= step else scores

    return digit_reward


def _nan_weight(model: Any, optimizer: Any) -> None:
    next(model.parameters()).data.view(-1)[0] = math.nan


def _nan_in_first(scores: list[float]) -> list[float]:
    return [math.nan, *scores[1:]]


def _constant(scores: list[float]) -> list[float]:
    return [0.5] * len(scores)


def _set_rate(factor: float) -> Callable[[Any, Any], None]:
    def change(model: Any, optimizer: Any) -> None:
        for group in optimizer.param_groups:
            group["lr"] *= factor

    return change


def _rate_from(factor: float) -> Callable[[Trainer, int], None]:
    """Multiplies the schedule itself, so that the logged learning rate is the one that is used."""

    def apply(trainer: Trainer, step: int) -> None:
        def change(model: Any, optimizer: Any) -> None:
            schedule = trainer.lr_scheduler
            schedule.base_lrs = [rate * factor for rate in schedule.base_lrs]
            _set_rate(factor)(model, optimizer)

        trainer.add_callback(at_step(step, change))

    return apply


def _sharpen(model: Any, optimizer: Any) -> None:
    """Multiplies the output layer, so that the policy all but stops sampling."""
    model.get_output_embeddings().weight.data.mul_(8.0)


def _other_reference(trainer: Trainer, step: int) -> None:
    """The reference is the model before its warm start: the wrong checkpoint of the right family."""
    from rldk_tracking.demo.model import tiny_model

    trainer.ref_model.load_state_dict(tiny_model(seed=trainer.args.seed, warm_steps=0).state_dict())


def _unending(model: Any, optimizer: Any) -> None:
    """Gives the output layer a bias with which the policy all but never ends a completion.

    A weight of the model, not a hook: TRL 1.16 scores with the layer's weight and bias, without calling the layer.
    """
    import torch

    from rldk_tracking.demo.model import EOS, VOCABULARY

    layer = model.get_output_embeddings()
    bias = torch.zeros(layer.out_features, dtype=layer.weight.dtype, device=layer.weight.device)
    bias[VOCABULARY.index(EOS)] = -20.0
    layer.bias = torch.nn.Parameter(bias, requires_grad=False)


def _callback(action: Callable[[Any, Any], None]) -> Callable[[Trainer, int], None]:
    return lambda trainer, step: trainer.add_callback(at_step(step, action))


FAULTS: dict[str, Fault] = {
    fault.name: fault
    for fault in (
        Fault(
            "lr-jump",
            "the learning rate becomes 30 times what it was",
            ("lr.spike", "kl.high", "kl.spike", "reward.collapse", "policy.collapse", "update.too_large"),
            apply=_rate_from(30.0),
        ),
        Fault(
            "constant-reward",
            "the reward function gives every completion 0.5",
            ("reward.no_signal",),
            settings=lambda step: {"reward_funcs": reward_from(step, _constant)},
        ),
        Fault(
            "nan",
            "one weight becomes NaN",
            ("nan.weights", "nan.gradients", "nan.loss"),
            # Without this, sampling from NaN logits raises, and there is nothing left to watch.
            settings=lambda step: {"generation_kwargs": {"remove_invalid_values": True}},
            apply=_callback(_nan_weight),
        ),
        Fault(
            "nan-reward",
            "the reward function returns NaN for one completion a step",
            ("nan.reward",),
            settings=lambda step: {"reward_funcs": reward_from(step, _nan_in_first)},
        ),
        Fault("truncation", "completions run into the length limit", ("length.truncated",), apply=_callback(_unending)),
        Fault(
            "entropy-collapse",
            "the policy becomes all but deterministic",
            ("entropy.collapse", "policy.collapse"),
            apply=_callback(_sharpen),
        ),
        Fault(
            "wrong-reference",
            "the KL penalty is towards another model than training began from",
            ("reference.mismatch",),
            apply=_other_reference,
            from_start=True,
        ),
        Fault("lr-zero", "the learning rate becomes 0", ("lr.zero", "update.none"), apply=_rate_from(0.0)),
    )
}
"""Name to fault."""
