"""The tensor contract between trainers and diagnostics: what was sampled, and how it was trained on.

Everything downstream of `rldk_tracking.sources` reads these two classes and nothing else, so a custom training
loop that can fill a `Rollout` gets every diagnostic that a TRL trainer gets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_PER_TOKEN = (
    "logprobs",
    "ref_logprobs",
    "sampler_logprobs",
    "entropy",
    "token_ids",
    "values",
    "returns",
    "value_mask",
)
_PER_SEQUENCE = ("scores", "non_score_rewards", "group_ids", "truncated")
_EITHER = ("advantages", "raw_advantages")


def _is_tensor(value: object) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype") and hasattr(value, "device")


@dataclass(frozen=True, slots=True)
class Rollout:
    """A batch of B sampled completions of at most T response tokens. Every field but `mask` is optional.

    Tensors may be of any floating dtype and on any device, all on the same one. What is not known is `None`:
    a metric that needs it is then absent.

    Attributes:
        mask: (B, T) bool or 0/1. True at response tokens that count (the end-of-sequence token is one of them).
        token_ids: (B, T) integers. The response tokens; padding may hold anything.
        logprobs: (B, T) nats. Log-probability of each token under the policy that is trained, at sampling time.
        ref_logprobs: (B, T) nats. The same under the reference policy.
        sampler_logprobs: (B, T) nats. The same as reported by the engine that sampled, where it is another one.
        entropy: (B, T) nats. Exact entropy of the policy's distribution at each position.
        scores: (B,) The reward that the optimiser was given for each completion, before any KL penalty.
            NaN where no reward function scored the completion.
        rewards: name to (B,). What each reward function returned, unweighted, NaN where it returned None.
        abstained: name to (B,) bool. True where the reward function returned None, so that a NaN elsewhere is a fault.
            Of a function that does not stand here nobody knows which of the two a NaN is.
        reward_weights: name to weight.
        max_score: The highest score that the task can give, where it is known.
        non_score_rewards: (B,) The part of the return that is not the score: the KL penalty, summed over tokens.
        values: (B, T) The critic's predictions.
        returns: (B, T) The critic's targets.
        value_mask: (B, T) bool. True where `values` and `returns` count; `mask` is used where it is None.
        advantages: (B,) or (B, T) As used in the loss (whitened where the trainer whitens).
        raw_advantages: (B,) or (B, T) Before whitening.
        group_ids: (B,) integers, unique over all ranks. Completions of one prompt carry one number.
        truncated: (B,) bool. The finish reason: True where the length limit ended the completion, False where the
            completion ended by itself.
        prompts, completions: B texts each, for sample tables. They leave the process only where samples are asked for.

    Raises:
        ValueError: a field's shape does not fit the mask's; the message names the field.
        TypeError: a field is not a tensor.

    Examples:
        >>> import torch
        >>> from rldk_tracking import Rollout
        >>> Rollout(mask=torch.ones(2, 3), scores=torch.tensor([1.0, 0.0])).present()
        ('mask', 'scores')
    """

    mask: Tensor
    token_ids: Tensor | None = None
    logprobs: Tensor | None = None
    ref_logprobs: Tensor | None = None
    sampler_logprobs: Tensor | None = None
    entropy: Tensor | None = None
    scores: Tensor | None = None
    rewards: Mapping[str, Tensor] = field(default_factory=dict)
    abstained: Mapping[str, Tensor] = field(default_factory=dict)
    reward_weights: Mapping[str, float] = field(default_factory=dict)
    max_score: float | None = None
    non_score_rewards: Tensor | None = None
    values: Tensor | None = None
    returns: Tensor | None = None
    value_mask: Tensor | None = None
    advantages: Tensor | None = None
    raw_advantages: Tensor | None = None
    group_ids: Tensor | None = None
    truncated: Tensor | None = None
    prompts: tuple[str, ...] | None = None
    completions: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not _is_tensor(self.mask):
            raise TypeError(f"Rollout.mask must be a (B, T) tensor, got {type(self.mask).__name__}.")
        if self.mask.ndim != 2:
            raise ValueError(f"Rollout.mask must have shape (B, T), got {tuple(self.mask.shape)}.")
        rows, tokens = self.mask.shape
        for name in _PER_TOKEN:
            _check_shape(name, getattr(self, name), [(rows, tokens)])
        for name in _PER_SEQUENCE:
            _check_shape(name, getattr(self, name), [(rows,)])
        for name in _EITHER:
            _check_shape(name, getattr(self, name), [(rows,), (rows, tokens)])
        for reward_name, values in self.rewards.items():
            _check_shape(f"rewards[{reward_name!r}]", values, [(rows,)])
        for reward_name, flags in self.abstained.items():
            _check_shape(f"abstained[{reward_name!r}]", flags, [(rows,)])
        for name in ("prompts", "completions"):
            texts = getattr(self, name)
            if texts is not None and len(texts) != rows:
                raise ValueError(f"Rollout.{name} must hold one text for each of the {rows} rows, got {len(texts)}.")

    def present(self) -> tuple[str, ...]:
        """Names of the fields that hold something, in declaration order."""
        return tuple(f.name for f in fields(self) if getattr(self, f.name) not in (None, {}))


@dataclass(frozen=True, slots=True)
class PolicyUpdate:
    """What one optimiser step saw of N completions: the new policy's log-probabilities beside the old ones.

    Rows need not be in the order of the `Rollout`'s.

    Attributes:
        mask: (N, T) bool or 0/1, True at tokens that the loss counts.
        new_logprobs: (N, T) nats, under the weights that the loss was computed with, detached.
        old_logprobs: (N, T) nats, under the policy at sampling time. None where the trainer reuses the new ones,
            which makes every ratio 1 by construction (then no ratio statistic exists).
        advantages: (N,) or (N, T).
        clip_low, clip_high: the clip range, ratios within [1 - clip_low, 1 + clip_high] are not clipped. None on a
            side that is not clipped.
        clip_delta: the ratio above which a negative advantage has no gradient either (two-sided clipping).
        capped: True where ratios above 1 + clip_high are cut off whatever the advantage, and what is cut off keeps its
            gradient (CISPO).
        sequence_level: True where one ratio a sequence is clipped (RLOO, GSPO).
        geometric_mean: True where a sequence's ratio is the geometric mean over its tokens (GSPO), False where it is
            their product (RLOO). It says something only with sequence_level.
        clips_tokens: True where the sequence's ratio is clipped at each of its tokens (GSPO-token), so that shares are
            of tokens. It says something only with sequence_level.
        loss_mask: (N, T) bool or 0/1. Those of the mask's tokens whose ratios the loss weighs, where it leaves some out
            (top_entropy_quantile).
        excluded: (N,) bool. Completions that the loss leaves out whole (mask_truncated_completions). Others whose mask
            is empty are empty completions.
        entropy: (N, T) nats. Exact entropy of the policy's distribution at each position.
        micro_batch: (N,) which forward pass each row was in. Trainers average over passes, each a mean over its tokens.
        first_epoch: True where no optimiser step lies between sampling and this loss, so that every ratio must be 1.

    Examples:
        >>> import torch
        >>> from rldk_tracking import PolicyUpdate
        >>> update = PolicyUpdate(mask=torch.ones(2, 3), new_logprobs=-torch.ones(2, 3), clip_low=0.2, clip_high=0.2)
        >>> update.old_logprobs is None  # no ratio can be told
        True
    """

    mask: Tensor
    new_logprobs: Tensor
    old_logprobs: Tensor | None = None
    advantages: Tensor | None = None
    entropy: Tensor | None = None
    micro_batch: Tensor | None = None
    clip_low: float | None = None
    clip_high: float | None = None
    clip_delta: float | None = None
    capped: bool = False
    sequence_level: bool = False
    geometric_mean: bool = False
    clips_tokens: bool = False
    loss_mask: Tensor | None = None
    excluded: Tensor | None = None
    first_epoch: bool = False

    def __post_init__(self) -> None:
        rows, tokens = self.mask.shape
        _check_shape("new_logprobs", self.new_logprobs, [(rows, tokens)])
        _check_shape("old_logprobs", self.old_logprobs, [(rows, tokens)])
        _check_shape("entropy", self.entropy, [(rows, tokens)])
        _check_shape("micro_batch", self.micro_batch, [(rows,)])
        _check_shape("loss_mask", self.loss_mask, [(rows, tokens)])
        _check_shape("excluded", self.excluded, [(rows,)])
        _check_shape("advantages", self.advantages, [(rows,), (rows, tokens)])


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What a tracker is told when training begins.

    Attributes:
        name: the run's name, where one is known.
        output_dir: the trainer's output folder, where there is one.
        trainer: class name of the trainer ("GRPOTrainer"), or "custom".
        config: settings of the run that alerts and notes may quote (learning rate, beta, ...). No secrets.
        callback: the transformers callback of the backend, where the backend has one in this trainer.
        args, state, control: the transformers objects, for backends that are served through their callback.
        saves_view: whether a tracker may save charts as a view that is not the run's alone, as in a W&B project.
    """

    name: str | None = None
    output_dir: str | None = None
    trainer: str = "custom"
    config: Mapping[str, Any] = field(default_factory=dict)
    callback: Any = None
    args: Any = None
    state: Any = None
    control: Any = None
    saves_view: bool = False


def _check_shape(name: str, value: Tensor | None, allowed: list[tuple[int, ...]]) -> None:
    if value is None:
        return
    if not _is_tensor(value):
        raise TypeError(f"Rollout.{name} must be a tensor, got {type(value).__name__}.")
    if tuple(value.shape) not in allowed:
        wanted = " or ".join(str(shape) for shape in allowed)
        raise ValueError(f"Rollout.{name} has shape {tuple(value.shape)}, but the mask asks for {wanted}.")
