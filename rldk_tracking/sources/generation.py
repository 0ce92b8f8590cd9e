"""One batch of completions as TRL's GRPO and RLOO trainers make it, and the `Rollout` that it amounts to.

TRL shuffles a rollout before it is trained on. A row's key is a hash of its tokens, so that what the loss computed
for shuffled micro-batches can be put back in the order in which rewards were given, on the device and without waiting
for it. Rows with the same tokens are interchangeable: one policy gives them the same log-probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor

from rldk_tracking.rollout import Rollout

PER_ROW = (
    *("mask", "token_ids", "logprobs", "ref_logprobs", "sampler_logprobs", "entropy", "scores", "non_score_rewards"),
    *("advantages", "group_ids", "truncated"),
)
"""Fields of a `Rollout` that are stacked, (B,) or (B, T) each."""


@dataclass
class Generation:
    """What `_generate_and_score_completions` returned, and what the trainer logged while it ran. Rows are this rank's.

    Attributes:
        step: optimiser steps made before it was sampled.
        output: token ids, masks, advantages and the log-probabilities that the trainer keeps.
        rewards: reward function to (B,) numbers, NaN where it returned None; empty where that is not known.
        abstained: reward function to (B,) bool, True where it returned None; without those of which it is not known.
        weights: reward function to weight.
        group_ids: (B,) numbers of the groups over all ranks, from 0; None where they are not known.
        num_generations: completions of one prompt.
        all_rows: number of rows that were sampled, over all ranks.
        hides_truncated: whether the trainer took truncated completions out of `completion_mask`.
        stop_ids: tokens that end a completion, or fill the batch after its end.
        prompts, completions: texts, where the trainer keeps them.
        old_logprobs, ref_logprobs: (B, T), where they were computed and not kept in `output`.
        kl_penalty: what one nat of divergence takes off a completion's reward (RLOO's beta).
    """

    step: int
    output: Mapping[str, Any]
    rewards: dict[str, Tensor] = field(default_factory=dict)
    abstained: dict[str, Tensor] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    group_ids: Tensor | None = None
    num_generations: int | None = None
    all_rows: int = 0
    hides_truncated: bool = False
    stop_ids: tuple[int, ...] = ()
    prompts: tuple[str, ...] | None = None
    completions: tuple[str, ...] | None = None
    old_logprobs: Tensor | None = None
    ref_logprobs: Tensor | None = None
    kl_penalty: float = 0.0

    @property
    def groups(self) -> int:
        """Number of prompts over all ranks."""
        return -(-self.all_rows // self.num_generations) if self.num_generations else 0

    @property
    def token_ids(self) -> Tensor:
        """(B, T)."""
        ids: Tensor = self.output["completion_ids"]
        return ids

    @property
    def completion_mask(self) -> Tensor:
        """(B, T) bool."""
        mask: Tensor = self.output["completion_mask"]
        return mask.bool()

    @cached_property
    def keys(self) -> Tensor:
        """(B,) hashes of prompt and completion, see `row_keys`."""
        return keys_of(self.output)

    @cached_property
    def trained(self) -> Tensor:
        """(B,) bool. False where `mask_truncated_completions` took a truncated completion out of the loss."""
        return self.completion_mask.any(dim=1)

    @cached_property
    def present(self) -> Tensor:
        """(B, T) bool. Every sampled token, also of completions that are not trained on.

        Those were cut off, so neither is their last token padding nor does padding stand before it.
        """
        ids, mask = self.token_ids, self.completion_mask
        if not self.hides_truncated or not self.stop_ids:
            return mask
        not_padding = ids != self.stop_ids[-1]
        up_to_last: Tensor = not_padding.flip(1).cumsum(dim=1).flip(1) > 0
        return torch.where(self.trained[:, None], mask, up_to_last)

    @cached_property
    def mask(self) -> Tensor:
        """(B, T) bool. `present` without what tools wrote into the completion."""
        tool_mask = self.output.get("tool_mask")
        if tool_mask is None:
            return self.present
        written: Tensor = tool_mask.bool()
        return self.present & (written | ~self.trained[:, None] if self.hides_truncated else written)

    @cached_property
    def truncated(self) -> Tensor | None:
        """(B,) bool. The last token neither ends a completion nor is padding, as TRL's `completions/clipped_ratio`.

        Where the trainer says it itself, as ms-swift's, what it says.
        """
        known: Tensor | None = self.output.get("truncated_mask")
        if known is not None:
            return known.bool()
        if not self.stop_ids or self.token_ids.shape[1] == 0:
            return None
        lengths = self.present.sum(dim=1)
        last = self.token_ids.gather(1, (lengths - 1).clamp(min=0)[:, None]).squeeze(1)
        ended = torch.zeros_like(lengths, dtype=torch.bool)
        for token in self.stop_ids:
            ended |= last == token
        cut: Tensor = ~ended & (lengths > 0)
        return cut

    def scores(self) -> tuple[Tensor | None, dict[str, Tensor]]:
        """(B,) weighted sum over the functions that scored, NaN where none did, as TRL's `reward`; and each one's."""
        if not self.rewards:
            return None, {}
        device = self.token_ids.device
        table = torch.stack(list(self.rewards.values())).to(device, torch.float32)
        weights = torch.tensor([self.weights.get(name, 1.0) for name in self.rewards]).to(device)
        total = (table * weights[:, None]).nansum(dim=0).masked_fill(table.isnan().all(dim=0), math.nan)
        weighed = set(self.weights) >= set(self.rewards)
        return total if weighed else None, dict(zip(self.rewards, table, strict=True))

    def rollout(self, logprobs: Tensor | None, entropy: Tensor | None, first_group: int = 0) -> Rollout:
        """As the contract wants it.

        Args:
            logprobs, entropy: (B, T) of the policy at sampling time, where the trainer does not keep them.
            first_group: number of the step's first group of this generation.
        """
        kept = self.output.get("old_per_token_logps")
        logprobs = kept if kept is not None else self.old_logprobs if self.old_logprobs is not None else logprobs
        ref_logprobs = self.output.get("ref_per_token_logps", self.ref_logprobs)
        scores, rewards = self.scores()
        group_ids = penalty = None
        if self.group_ids is not None:
            group_ids = self.group_ids.to(self.mask.device) + first_group
        if self.kl_penalty and logprobs is not None and ref_logprobs is not None:
            counted = self.completion_mask
            penalty = -self.kl_penalty * (logprobs - ref_logprobs).masked_fill(~counted, 0.0).sum(dim=1)
        return Rollout(
            mask=self.mask,
            token_ids=self.token_ids,
            logprobs=self._where_trained(logprobs),
            ref_logprobs=self._where_trained(ref_logprobs),
            sampler_logprobs=self.output.get("sampling_per_token_logps"),
            entropy=self._where_trained(entropy),
            scores=scores,
            rewards=rewards,
            abstained={name: flags.to(self.mask.device) for name, flags in self.abstained.items()},
            reward_weights=dict(self.weights) if rewards else {},
            non_score_rewards=penalty,
            advantages=self.output.get("advantages"),
            group_ids=group_ids,
            truncated=self.truncated,
            prompts=self.prompts,
            completions=self.completions,
        )

    def _where_trained(self, values: Tensor | None) -> Tensor | None:
        """NaN in the rows that the trainer hides from the model, where its log-probabilities mean nothing."""
        if values is None or not self.hides_truncated:
            return values
        return values.masked_fill(~self.trained[:, None], math.nan)


def joined(rollouts: Sequence[Rollout]) -> Rollout:
    """The generations of one optimiser step as one rollout. A field that one of them lacks is left out."""
    if len(rollouts) == 1:
        return rollouts[0]
    fields: dict[str, Any] = {name: stack_rows([getattr(part, name) for part in rollouts]) for name in PER_ROW}
    for by_function in ("rewards", "abstained"):
        tables = [getattr(part, by_function) for part in rollouts]
        names = [name for name in tables[0] if all(name in table for table in tables)]
        fields[by_function] = {name: torch.cat([table[name] for table in tables]) for name in names}
    for name in ("prompts", "completions"):
        texts = [getattr(part, name) for part in rollouts]
        fields[name] = None if any(part is None for part in texts) else tuple(text for part in texts for text in part)
    return Rollout(reward_weights=rollouts[0].reward_weights, **fields)


def at_sampling(
    generation: Generation, keys: Sequence[Tensor], *columns: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """What the loss computed for shuffled micro-batches, in the generation's order.

    Args:
        keys: of each micro-batch's rows.
        columns: (n, T) values of each micro-batch, for one quantity after the other.

    Returns:
        (B, T) for each quantity; NaN in rows that no micro-batch held, None where a micro-batch has no values.
    """
    if not keys:
        return [None] * len(columns)
    index, found = match(torch.cat(list(keys)), generation.keys)
    stacked = [stack_rows(list(column)) for column in columns]
    return [
        values[index].masked_fill(~found[:, None], math.nan)
        if values is not None and values.shape[-1] == generation.mask.shape[1]
        else None
        for values in stacked
    ]


def keys_of(batch: Mapping[str, Any]) -> Tensor:
    """(B,) hashes of a batch's prompts and completions, see `row_keys`."""
    return row_keys(torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1))


def row_keys(token_ids: Tensor) -> Tensor:
    """(B, L) integers to (B,) int64 hashes, modulo 2^64. Two different rows collide once in about 10^18."""
    return ((token_ids.long() + 1) * _weights(token_ids.shape[1], token_ids.device)).sum(dim=1)


@lru_cache(maxsize=4)
def _weights(length: int, device: torch.device) -> Tensor:
    """(length,) well mixed numbers, made on the device so that nothing is copied there."""
    weights = torch.arange(1, length + 1, device=device) * 0x1E3779B97F4A7C15
    weights = (weights ^ (weights >> 30)) * 0x3F58476D1CE4E5B9
    weights = (weights ^ (weights >> 27)) * 0x14D049BB133111EB
    return weights ^ (weights >> 31)


def match(keys: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Where each wanted key stands.

    Args:
        keys: (M,), at least one.
        wanted: (N,).

    Returns:
        (N,) index into `keys`, and (N,) bool, False where the key is not there and the index means nothing.
    """
    order = keys.argsort()
    ranked = keys[order]
    place = torch.searchsorted(ranked, wanted).clamp(max=len(keys) - 1)
    return order[place], ranked[place] == wanted


def align(keys: Tensor, values: Tensor, wanted: Tensor) -> Tensor:
    """(N, T): the row of `values`, (M, T), that stands at each wanted key, NaN where there is none."""
    if len(keys) == 0:
        return values.new_full((len(wanted), values.shape[1]), torch.nan)
    index, found = match(keys, wanted)
    return values[index].masked_fill(~found[:, None], torch.nan)


def pad_right(tensor: Tensor, length: int) -> Tensor:
    """(B, T) with zeros appended up to (B, length); tensors of one dimension stay as they are."""
    missing = length - tensor.shape[-1]
    return tensor if tensor.ndim < 2 or missing <= 0 else torch.nn.functional.pad(tensor, (0, missing))


def stacked(batches: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Batches of a trainer's as one. Of several, the tensors that all of them have."""
    if len(batches) == 1:
        return dict(batches[0])
    names = [name for name, value in batches[0].items() if isinstance(value, Tensor) and value.ndim > 0]
    columns = {name: stack_rows([batch.get(name) for batch in batches]) for name in names}
    return {name: column for name, column in columns.items() if column is not None}


def stack_rows(parts: list[Tensor | None]) -> Tensor | None:
    """Batches one below the other, padded to the longest; None where one of them is."""
    tensors = [part for part in parts if part is not None]
    if not tensors or len(tensors) < len(parts):
        return None
    if len(tensors) == 1:
        return tensors[0]
    if any(tensor.ndim != tensors[0].ndim for tensor in tensors):
        return None
    length = max(tensor.shape[-1] for tensor in tensors)
    return torch.cat([pad_right(tensor, length) for tensor in tensors])
