"""Ways to change a GRPO, RLOO or PPO trainer from a step on, so that one fault can be put into any of them.

The changes are of the settings, the reward, the model, its gradients or the optimizer: what goes wrong in real runs,
not numbers written into logs. Steps are counted from 1, as the trainer's `global_step` counts them once a step is
done.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers import TrainerCallback

from rldk_tracking.demo.model import EOS, VOCABULARY
from rldk_tracking.demo.task import reward

Apply = Callable[[Any, int], None]
Scores = Callable[[torch.Tensor, int], torch.Tensor]


def is_ppo(trainer: Any) -> bool:
    return type(trainer).__name__ == "PPOTrainer"


def policy(trainer: Any) -> Any:
    """The policy alone: PPO trains it in one wrapper with the critic."""
    return getattr(trainer.model, "policy", trainer.model)


class Before(TrainerCallback):  # type: ignore[misc]
    """Calls `action()` before step number `step` samples, or before each from it on.

    PPO's loop has no event for that but the end of the step before; there its log is already out. In the others the end
    of a step comes before its log.
    """

    def __init__(self, trainer: Any, step: int, action: Callable[[], None], every: bool = False) -> None:
        self.step, self.action, self.every, self.ppo = step, action, every, is_ppo(trainer)

    def _reached(self, step: int) -> None:
        if step == self.step or (self.every and step > self.step):
            self.action()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.ppo:
            self._reached(state.global_step + 1)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.ppo:
            self._reached(state.global_step + 1)


def before(action: Callable[[Any], None], every: bool = False) -> Apply:
    """`action(trainer)` before the step."""
    return lambda trainer, step: trainer.add_callback(Before(trainer, step, lambda: action(trainer), every))


def rate(factor: float) -> Apply:
    """The schedule itself is multiplied, so that the learning rate in the logs is the one that is used."""

    def change(trainer: Any) -> None:
        trainer.lr_scheduler.base_lrs = [base * factor for base in trainer.lr_scheduler.base_lrs]
        for group in trainer.optimizer.param_groups:
            group["lr"] *= factor

    return before(change)


def gradients(factor: float, once: bool = False, of: Callable[[Any], Any] = lambda trainer: trainer.model) -> Apply:
    """From the step on, or in that step alone, every gradient is multiplied before the trainer sees it."""

    def apply(trainer: Any, step: int) -> None:
        def change(gradient: torch.Tensor) -> torch.Tensor:
            now = trainer.state.global_step + 1
            return gradient * factor if (now == step if once else now >= step) else gradient

        for parameter in of(trainer).parameters():
            parameter.register_hook(change)

    return apply


def nan_weight(trainer: Any, step: int) -> None:
    """One weight becomes NaN as the optimizer has made that step: a policy of NaN cannot sample, which ends PPO."""

    def damage(*_: Any) -> None:
        if trainer.state.global_step + 1 == step:
            next(policy(trainer).parameters()).data.view(-1)[0] = math.nan

    def register(trainer: Any) -> None:
        optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
        optimizer.register_step_post_hook(damage)

    trainer.add_callback(Before(trainer, step - 1, lambda: register(trainer)))


def _logits(change: Callable[[torch.Tensor, torch.Tensor], None]) -> Callable[[Any], None]:
    """`change(logits (B, T, V), input ids (B, T))`, in place on a copy, in every pass of the policy from now on."""

    def apply(trainer: Any) -> None:
        def hook(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
            if getattr(output, "log_probs", None) is not None:
                return _fused(output, module, kwargs, trainer.temperature)
            ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
            logits = output.logits.clone()
            change(logits, ids[:, -logits.shape[1] :])
            output.logits = logits
            return output

        policy(trainer).register_forward_hook(hook, with_kwargs=True)

    return apply


def _fused(output: Any, module: Any, kwargs: Any, temperature: float) -> Any:
    """What a head without logits gives (TRL's `add_fused_lm_head`), made from the changed logits of a plain pass."""
    plain = {name: value for name, value in kwargs.items() if name not in ("labels", "fused_lm_head")}
    logprobs = (module(**plain).logits[:, :-1].float() / temperature).log_softmax(-1)
    labels = kwargs["labels"][:, 1:]
    scored = logprobs.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    output.log_probs = scored.masked_fill(labels == -100, 0.0)
    if output.entropy is not None:
        output.entropy = -(logprobs.exp() * logprobs).sum(-1).masked_fill(labels == -100, 0.0)
    return output


def _no_end(logits: torch.Tensor, ids: torch.Tensor) -> None:
    logits[..., VOCABULARY.index(EOS)] -= 20.0


def _repeat(logits: torch.Tensor, ids: torch.Tensor) -> None:
    """A digit is followed by itself."""
    digit = (ids > 1) & (ids < len(VOCABULARY) - 1)
    logits.scatter_add_(2, ids.unsqueeze(-1), 12.0 * digit.unsqueeze(-1).to(logits.dtype))


never_ends = before(_logits(_no_end))
repeats = before(_logits(_repeat))


def other_reference(trainer: Any, step: int) -> None:
    """The reference is the model before its warm start: the wrong checkpoint of the right family."""
    from rldk_tracking.demo.model import tiny_model

    trainer.ref_model.load_state_dict(tiny_model(seed=trainer.args.seed, warm_steps=0).state_dict())


class RewardModelHead(torch.nn.Module):
    """PPO's reward model with its scores (B, T, 1) passed through `change(scores, steps since the fault began)`."""

    def __init__(self, trainer: Any, step: int, change: Scores) -> None:
        super().__init__()
        self.trainer_state, self.step, self.change = trainer.state, step, change
        self.trainer = [trainer]  # in a list, so that torch does not take it for a module of this one

    def forward(self, scores: torch.Tensor) -> torch.Tensor:
        since = self.trainer[0].state.global_step + 1 - self.step
        return self.change(scores, since) if since >= 0 else scores


def rewards(change: Scores) -> tuple[Callable[[str, int], Mapping[str, Any]], Apply]:
    """The task's reward through `change`: settings for GRPO and RLOO, and what to apply to PPO."""

    def settings(kind: str, step: int) -> Mapping[str, Any]:
        if kind == "ppo":
            return {}

        def changed(prompts: Any, completions: Any, trainer_state: Any = None, **kwargs: Any) -> list[float]:
            scores = torch.tensor(reward(prompts, completions))
            since = (0 if trainer_state is None else trainer_state.global_step) + 1 - step
            return (change(scores, since) if since >= 0 else scores).tolist()

        return {"reward_funcs": changed}

    def apply(trainer: Any, step: int) -> None:
        if is_ppo(trainer):
            trainer.reward_model.score = RewardModelHead(trainer, step, change)

    return settings, apply


def first(value: float) -> Scores:
    """The first sample of the batch scores `value`."""

    def change(scores: torch.Tensor, since: int) -> torch.Tensor:
        scores = scores.clone()
        scores[0] = value
        return scores

    return change
