"""Batches to compute metrics of: every shape, mask and dtype that trainers produce, and the degenerate ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rldk_tracking.metrics import reward
from rldk_tracking.metrics.advantage import RewardRange
from rldk_tracking.metrics.columns import Table, merge_tails, tail_of
from rldk_tracking.probes import steps as module
from rldk_tracking.rollout import PolicyUpdate, Rollout

DTYPES = (torch.float32, torch.float32, torch.bfloat16, torch.float16, torch.float64)
RUBBISH = (0.0, 1.0, math.nan, math.inf, -math.inf)
"""What may stand under a mask: PPO writes 1.0 there, other trainers leave what the model said."""


@st.composite
def masks(draw: st.DrawFn, rows: int, tokens: int) -> Tensor:
    """Padding on the right, holes, everything, nothing."""
    kind = draw(st.sampled_from(["lengths", "lengths", "holes", "full", "empty"]))
    if kind == "lengths":
        lengths = draw(st.lists(st.integers(0, tokens), min_size=rows, max_size=rows))
        mask = torch.arange(tokens)[None] < torch.tensor(lengths).reshape(-1, 1)
    elif kind == "holes":
        bits = draw(st.lists(st.booleans(), min_size=rows * tokens, max_size=rows * tokens))
        mask = torch.tensor(bits, dtype=torch.bool).reshape(rows, tokens)
    else:
        mask = torch.full((rows, tokens), kind == "full")
    return mask.to(draw(st.sampled_from([torch.bool, torch.int64, torch.float32])))


class Numbers:
    """Random tensors of one dtype, with rubbish where the mask is not."""

    def __init__(self, seed: int, dtype: torch.dtype, mask: Tensor, rubbish: float) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.dtype, self.mask, self.rubbish = dtype, mask.bool(), rubbish

    def normal(self, *shape: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
        return (torch.randn(*shape, generator=self.generator) * scale + shift).to(self.dtype)

    def tokens(self, scale: float = 1.0, shift: float = 0.0) -> Tensor:
        return self.normal(*self.mask.shape, scale=scale, shift=shift).masked_fill(~self.mask, self.rubbish)

    def log_probabilities(self) -> Tensor:
        return -self.tokens(1.5).abs()

    def near(self, logprobs: Tensor, scale: float) -> Tensor:
        moved = logprobs.float() + torch.randn(logprobs.shape, generator=self.generator) * scale
        return moved.to(self.dtype).masked_fill(~self.mask, self.rubbish)

    def integers(self, high: int, *shape: int) -> Tensor:
        return torch.randint(0, high, shape, generator=self.generator)


@st.composite
def scores(draw: st.DrawFn, numbers: Numbers, rows: int) -> Tensor:
    """Graded, right or wrong, all the same; some of them not scored."""
    kind = draw(st.sampled_from(["graded", "graded", "binary", "tied"]))
    values = numbers.normal(rows)
    if kind == "binary":
        values = numbers.integers(2, rows).to(numbers.dtype)
    elif kind == "tied":
        values = torch.full((rows,), 0.3, dtype=numbers.dtype)
    missing = draw(st.sampled_from([None, None, math.nan, math.inf]))
    return values if missing is None else values.masked_fill(numbers.integers(3, rows) == 0, missing)


@st.composite
def rollouts(draw: st.DrawFn, dtype: torch.dtype | None = None, max_rows: int = 7, max_tokens: int = 12) -> Rollout:
    rows, tokens = draw(st.integers(0, max_rows)), draw(st.integers(0, max_tokens))
    dtype = draw(st.sampled_from(DTYPES)) if dtype is None else dtype
    mask = draw(masks(rows, tokens))
    numbers = Numbers(draw(st.integers(0, 2**32)), dtype, mask, draw(st.sampled_from(RUBBISH)))
    logprobs = numbers.log_probabilities()
    sampler = numbers.near(logprobs, draw(st.sampled_from([0.0, 0.05, 1.0])))
    if draw(st.booleans()):
        sampler = sampler.masked_fill(numbers.integers(4, rows, tokens) == 0, math.nan)
    value_mask = draw(st.sampled_from([None, mask, torch.ones_like(mask)]))
    critic = Numbers(numbers.generator.initial_seed() + 1, dtype, mask if value_mask is None else value_mask, math.nan)
    per_token = draw(st.booleans())
    group_count = draw(st.sampled_from([1, 2, max(rows, 1)]))
    functions = draw(st.sampled_from([(), ("right",), ("right", "format", "org/judge")]))
    rewards = {name: draw(scores(numbers, rows)) for name in functions}
    told = functions if draw(st.booleans()) else ()
    abstained = {name: rewards[name].isnan() & (numbers.integers(3, rows) > 0) for name in told}
    return Rollout(
        mask=mask,
        token_ids=numbers.integers(draw(st.sampled_from([1, 2, 5, 150_000])), rows, tokens),
        logprobs=logprobs,
        ref_logprobs=numbers.near(logprobs, draw(st.sampled_from([0.0, 0.1, 1.0]))),
        sampler_logprobs=sampler,
        entropy=draw(st.sampled_from([None, numbers.tokens().abs()])),
        scores=draw(scores(numbers, rows)),
        rewards=rewards,
        abstained=abstained,
        reward_weights={name: float(index) for index, name in enumerate(functions[:2])},
        max_score=draw(st.sampled_from([None, 0.3, 1.0])),
        non_score_rewards=numbers.normal(rows),
        values=critic.tokens(shift=draw(st.sampled_from([0.0, 50.0]))),
        returns=critic.tokens(draw(st.sampled_from([0.0, 1.0, 1.0])), shift=0.3),
        value_mask=value_mask,
        advantages=numbers.tokens() if per_token else numbers.normal(rows),
        raw_advantages=numbers.tokens(3.0) if per_token else None,
        group_ids=numbers.integers(group_count, rows) + draw(st.sampled_from([0, 10_000_000])),
        truncated=numbers.integers(2, rows).bool(),
    )


@st.composite
def updates(draw: st.DrawFn, max_rows: int = 7, max_tokens: int = 12) -> PolicyUpdate:
    rows, tokens = draw(st.integers(0, max_rows)), draw(st.integers(0, max_tokens))
    mask = draw(masks(rows, tokens))
    numbers = Numbers(draw(st.integers(0, 2**32)), draw(st.sampled_from(DTYPES)), mask, draw(st.sampled_from(RUBBISH)))
    new = numbers.log_probabilities()
    per_token = draw(st.booleans())
    return PolicyUpdate(
        mask=mask,
        new_logprobs=new,
        old_logprobs=draw(st.sampled_from([None, numbers.near(new, 0.0), numbers.near(new, 0.4)])),
        advantages=draw(st.sampled_from([None, numbers.tokens() if per_token else numbers.normal(rows)])),
        entropy=draw(st.sampled_from([None, numbers.tokens().abs()])),
        clip_low=draw(st.sampled_from([None, 0.2])),
        clip_high=draw(st.sampled_from([None, 0.2, 0.28, -0.8, -1.0])),
        clip_delta=draw(st.sampled_from([None, None, 1.1, 1.5])),
        capped=draw(st.booleans()),
        sequence_level=draw(st.booleans()),
        geometric_mean=draw(st.booleans()),
        clips_tokens=draw(st.booleans()),
        loss_mask=draw(st.sampled_from([None, mask.bool() & (numbers.normal(rows, tokens) > 0)])),
        excluded=draw(st.sampled_from([None, ~mask.bool().any(dim=1)])),
        first_epoch=draw(st.booleans()),
    )


def rows_of(rollout: Rollout, rows: Sequence[int]) -> Rollout:
    """The part of a batch that one rank would hold."""
    index = torch.tensor(list(rows), dtype=torch.int64)
    taken: dict[str, Any] = {
        f.name: getattr(rollout, f.name)[index] for f in fields(rollout) if isinstance(getattr(rollout, f.name), Tensor)
    }
    return replace(
        rollout,
        **taken,
        rewards={name: values[index] for name, values in rollout.rewards.items()},
        abstained={name: flags[index] for name, flags in rollout.abstained.items()},
    )


def table_of(parts: Sequence[Rollout]) -> Table:
    """What the ranks that hold these parts have together."""
    columns = joined([module.rollout_columns(part) for part in parts])
    capacity = None if len(parts) == 1 else 2048
    kept: dict[str, list[Tensor]] = {}
    counts: dict[str, list[int]] = {}
    for part in parts:
        for name, (values, mask) in module.rollout_tails(part).items():
            kept.setdefault(name, []).append(tail_of(values, mask, capacity))
            counts.setdefault(name, []).append(int(mask.sum()))
    merged = {
        name: merge_tails(
            pad_sequence(pieces, batch_first=True, padding_value=-math.inf).numpy(), np.array(counts[name])
        )
        for name, pieces in kept.items()
    }
    return Table(columns, merged, reward.names(parts[0]))


def joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Any]:
    return {name: torch.cat([part[name] for part in parts]).double().numpy() for name in parts[0]}


def check(found: Mapping[str, float], expected: Mapping[str, float | None], tolerance: float = 1e-6) -> None:
    """The same keys, the same numbers; None or NaN in `expected` says that the key must not be there."""
    wanted = {key: value for key, value in expected.items() if value is not None and math.isfinite(value)}
    assert set(found) == set(wanted)
    for key, value in wanted.items():
        assert found[key] == pytest.approx(value, rel=tolerance, abs=1e-9), key


@pytest.fixture(scope="session")
def a_rollout() -> Callable[..., st.SearchStrategy[Rollout]]:
    return rollouts


@pytest.fixture(scope="session")
def an_update() -> Callable[..., st.SearchStrategy[PolicyUpdate]]:
    return updates


@pytest.fixture(scope="session")
def tabulate() -> Callable[..., Table]:
    return lambda *parts: table_of(parts)


@pytest.fixture(scope="session")
def tabulate_updates() -> Callable[..., Table]:
    return lambda *parts: Table(joined([module.update_columns(part) for part in parts]))


@pytest.fixture(scope="session")
def columns() -> Callable[[Rollout], dict[str, Tensor]]:
    return module.rollout_columns


@pytest.fixture(scope="session")
def computed() -> Callable[..., dict[str, float]]:
    """Every key of a step's tables."""

    def keys(rollout: Table | None = None, update: Table | None = None) -> dict[str, float]:
        found = module.keys_of(rollout or Table(), update or Table())
        return found | RewardRange().shares(rollout or Table())

    return keys


@pytest.fixture(scope="session")
def take_rows() -> Callable[[Rollout, Sequence[int]], Rollout]:
    return rows_of


@pytest.fixture(scope="session")
def same() -> Callable[..., None]:
    return check


@pytest.fixture(scope="session")
def tokens_of() -> Callable[[Tensor, Tensor], list[list[float]]]:
    """The values under the mask, one list for each row, as Python floats."""

    def tokens(values: Tensor, mask: Tensor) -> list[list[float]]:
        return [
            [value for value, counts in zip(row, flags, strict=True) if counts]
            for row, flags in zip(values.double().tolist(), mask.bool().tolist(), strict=True)
        ]

    return tokens
