"""The faults that are injected into real runs of the tiny model, each with the rules that are right about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import interventions as to
import torch

from rldk_tracking.demo.task import reward

GROUP = ("grpo", "rloo")
ALL = ("grpo", "rloo", "ppo")
STEPS = 60


def _nothing(trainer: Any, step: int) -> None:
    """The trainer stays as it is."""


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong from the middle of a run on.

    Attributes:
        name, summary: what goes wrong.
        rules: ids of which one must fire, with a severity above info, and not before the fault.
        kinds: the trainers that can have it.
        settings: keywords for the trainer's factory, given its kind and the step at which the fault begins.
        apply: changes the trainer, given that step.
        from_start: whether it is there from the first step.
        options: of the callback.
    """

    name: str
    summary: str
    rules: tuple[str, ...]
    kinds: tuple[str, ...] = ALL
    settings: Callable[[str, int], Mapping[str, Any]] = field(default=lambda kind, step: {})
    apply: to.Apply = _nothing
    from_start: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    steps: int = STEPS


def _of_reward(name: str, summary: str, rules: tuple[str, ...], change: to.Scores, **settings: Any) -> Fault:
    changed, apply = to.rewards(change)
    return Fault(
        name,
        summary,
        rules,
        settings=lambda kind, step: {**changed(kind, step), **(settings if kind == "grpo" else {})},
        apply=apply,
    )


def _paid(score: Callable[[str], float]) -> Callable[[str, int], Mapping[str, Any]]:
    """A reward that from the step on looks at the completion alone, whatever was asked."""

    def settings(kind: str, step: int) -> Mapping[str, Any]:
        def paid(prompts: Any, completions: Any, trainer_state: Any = None, **kwargs: Any) -> list[float]:
            if trainer_state is None or trainer_state.global_step + 1 < step:
                return reward(prompts, completions)
            return [score(completion) for completion in completions]

        return {"reward_funcs": paid}

    return settings


def gold(prompts: Any, completions: Any) -> list[float]:
    """The task's own reward, held out."""
    return reward(prompts, completions)


def _leak(trainer: Any, step: int) -> None:
    """Eight megabytes a step, three quarters of a gigabyte at the end; they go with the trainer."""
    kept: list[bytearray] = []
    trainer.add_callback(to.Before(trainer, step, lambda: kept.append(bytearray(b"1" * 8_000_000)), every=True))


def _dead(trainer: Any) -> None:
    """The critic says 0 whatever it is shown, and no longer learns."""
    head = trainer.model.value_model.score
    head.weight.data.zero_()
    head.weight.requires_grad_(False)


def _explode(trainer: Any) -> None:
    trainer.model.value_model.score.weight.data.mul_(50.0)


RATES = {"grpo": 0.09, "rloo": 0.09, "ppo": 0.03}
LOST = ("reward.collapse", "policy.collapse", "entropy.collapse")
DIVERGED = ("kl.high", "kl.spike", "length.truncated", *LOST)

FAULTS: dict[str, Fault] = {
    fault.name: fault
    for fault in (
        Fault(
            "lr too high",
            "30 times too high from the start",
            (*DIVERGED, "reward.no_signal", "update.too_large"),
            settings=lambda kind, step: {"learning_rate": RATES[kind]},
            from_start=True,
        ),
        Fault(
            "lr jump",
            "30 times what it was",
            ("lr.spike", "update.too_large", *DIVERGED),
            apply=to.rate(30.0),
        ),
        _of_reward(
            "constant reward",
            "every completion scores 0.5",
            ("reward.no_signal",),
            lambda scores, since: torch.full_like(scores, 0.5),
        ),
        Fault(
            "NaN in weights",
            "one weight",
            ("nan.weights",),
            # Without this, sampling from NaN logits raises, and there is nothing left to watch.
            settings=lambda kind, step: {} if kind == "ppo" else {"generation_kwargs": {"remove_invalid_values": True}},
            apply=to.nan_weight,
        ),
        _of_reward("NaN in rewards", "of one completion a step", ("nan.reward",), to.first(float("nan"))),
        # The optimizer carries it into the weights within the step, so that either name is right.
        Fault("NaN in gradients", "all", ("nan.gradients", "nan.weights"), apply=to.gradients(float("nan"))),
        _of_reward("reward sign flip", "the reward is negated", ("reward.collapse",), lambda scores, since: -scores),
        _of_reward(
            "reward drift",
            "it fades by a twentieth a step",
            ("reward.collapse", "reward.no_signal"),
            lambda scores, since: scores * max(0.0, 1.0 - 0.05 * since),
        ),
        Fault(
            "length hacking",
            "the reward pays for length alone",
            ("reward.hacking", "length.explosion", "length.truncated"),
            GROUP,
            settings=_paid(lambda completion: len(completion) / 10),
        ),
        Fault(
            "degenerate repetition",
            "a digit is followed by itself for ever",
            ("diversity.collapse", "entropy.collapse", "policy.collapse", "length.truncated"),
            apply=to.repeats,
        ),
        Fault(
            "wrong reference",
            "not the model that training began from",
            ("reference.mismatch",),
            apply=to.other_reference,
            from_start=True,
        ),
        Fault(
            "dead critic",
            "it says 0 and learns nothing",
            ("value.explained_variance", "value.loss", "update.frozen", "grad.flow"),
            ("ppo",),
            apply=to.before(_dead),
        ),
        Fault(
            "critic exploding",
            "its head becomes 50 times as large",
            ("value.loss", "value.explained_variance"),
            ("ppo",),
            apply=to.before(_explode),
        ),
        Fault("lr 0", "from the step on", ("lr.zero",), apply=to.rate(0.0)),
        Fault(
            "frozen layer",
            "the first layer gets gradients of 0",
            ("grad.flow", "update.frozen"),
            apply=to.gradients(0.0, of=lambda trainer: to.policy(trainer).model.layers[0]),
        ),
        Fault(
            "exploding gradients",
            "10,000 times as large, in one step",
            ("grad.explosion",),
            apply=to.gradients(1e4, once=True),
        ),
        Fault(
            "vanishing gradients",
            "a millionth of what they were",
            ("grad.vanishing",),
            apply=to.gradients(1e-6),
        ),
        Fault("missing EOS", "the policy cannot end a completion", ("length.truncated",), apply=to.never_ends),
        _of_reward(
            "one sample dominating",
            "one completion's reward is 1,000",
            # PPO whitens its advantages, which bounds them: there the critic shows it.
            ("advantage.scale", "value.loss"),
            to.first(1000.0),
            scale_rewards="none",
        ),
        Fault(
            "memory leak",
            "8 MB more are kept every step",
            ("memory.leak",),
            GROUP,
            settings=lambda kind, step: {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1},
            apply=_leak,
            from_start=True,
            steps=110,
        ),
        Fault(
            "shortcut, held-out score",
            "the reward pays for zeros, and a held-out score is known",
            ("reward.hacking",),
            GROUP,
            settings=lambda kind, step: _paid(lambda completion: min(1.0, completion.count("0") / 4))(kind, 0),
            from_start=True,
            options={"gold_score_fn": gold},
        ),
    )
}
"""Name to fault."""
