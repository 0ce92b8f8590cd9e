"""Micro-batches of the loss as one update, by hand; real trainings are in test_trl_grpo.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rldk_tracking.sources.generation import Generation
from rldk_tracking.sources.loss_pass import LossPass, clip_range, detached, update_of

IDS = torch.tensor([[3, 5, 6], [3, 7, 8], [4, 5, 6], [4, 9, 9]])
LOGPROBS = torch.arange(8.0).reshape(4, 2) / -8


def generation(**fields: Any) -> Generation:
    output = {"prompt_ids": IDS[:, :1], "completion_ids": IDS[:, 1:], "completion_mask": torch.ones(4, 2)}
    return Generation(3, output, **fields)


def loss_pass(made: Generation | None, rows: list[int], step: int = 3, **inputs: Any) -> LossPass:
    inputs = {"completion_mask": torch.ones(len(rows), 2), "advantages": torch.tensor(rows).float(), **inputs}
    return LossPass(step, made, inputs, IDS[rows], LOGPROBS[rows] + 1, None)


def trainer(**fields: Any) -> Any:
    return SimpleNamespace(**{"epsilon_low": 0.2, "epsilon_high": 0.3, "loss_type": "dapo", **fields})


class RLOOTrainer:
    epsilon_low, epsilon_high = 0.2, 0.2


def test_micro_batches_are_stacked_in_order() -> None:
    made = generation()
    update = update_of(trainer(), [loss_pass(made, [2, 0], 4), loss_pass(made, [3, 1], 4)])
    assert update is not None and update.advantages is not None
    assert update.advantages.tolist() == [2, 0, 3, 1]
    assert torch.equal(update.new_logprobs, LOGPROBS[[2, 0, 3, 1]] + 1)
    assert (update.clip_low, update.clip_high, update.first_epoch) == (0.2, 0.3, False)
    assert update.old_logprobs is None and not update.sequence_level


def test_sampled_in_this_step_nothing_can_be_clipped() -> None:
    made = generation()
    first = update_of(trainer(), [loss_pass(made, [0]), loss_pass(made, [1])])
    assert first is not None and first.first_epoch and first.clip_low is None
    mixed = update_of(trainer(), [loss_pass(made, [0]), loss_pass(Generation(2, made.output), [1])])
    assert mixed is not None and not mixed.first_epoch and mixed.clip_low == 0.2
    unseen = update_of(trainer(), [loss_pass(None, [0])])
    assert unseen is not None and not unseen.first_epoch


def test_old_log_probabilities_are_found_in_the_buffer_or_by_row() -> None:
    kept = torch.full((2, 2), -9.0)
    by_buffer = update_of(trainer(), [loss_pass(generation(), [1, 2], 4, old_per_token_logps=kept)])
    assert by_buffer is not None and torch.equal(by_buffer.old_logprobs, kept)  # type: ignore[arg-type]
    by_row = update_of(RLOOTrainer(), [loss_pass(generation(old_logprobs=LOGPROBS), [3, 1], 4)])
    assert by_row is not None and by_row.sequence_level
    assert torch.equal(by_row.old_logprobs, LOGPROBS[[3, 1]])  # type: ignore[arg-type]


def test_what_tools_wrote_is_not_in_the_loss() -> None:
    update = update_of(trainer(), [loss_pass(None, [0, 1], tool_mask=torch.tensor([[1, 0], [1, 1]]))])
    assert update is not None and update.mask.tolist() == [[True, False], [True, True]]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"loss_type": "dapo"}, (0.2, 0.3)),
        ({"loss_type": "grpo"}, (0.2, 0.3)),
        # The limit is on the ratio itself, on one side.
        ({"loss_type": "cispo", "epsilon_high": 5.0}, (None, 4.0)),
        ({"loss_type": "sapo"}, (None, None)),
        ({"loss_type": "vespo"}, (None, None)),
        ({"importance_sampling_level": "sequence"}, (0.2, 0.3)),
    ],
)
def test_what_each_loss_clips(fields: dict[str, Any], expected: tuple[float | None, float | None]) -> None:
    assert clip_range(trainer(**fields)) == expected


def test_only_passes_without_a_step_between_show_the_sampling_policy() -> None:
    made = generation()
    passes = [loss_pass(made, [0, 1]), loss_pass(made, [2, 3], 4), loss_pass(None, [1])]
    assert [p.is_first for p in passes] == [True, False, False]
    assert torch.equal(passes[0].keys, made.keys[:2])


def test_graphs_are_not_kept() -> None:
    value = torch.ones(2, requires_grad=True) * 2
    kept = detached(value)
    assert kept is not None and kept.grad_fn is None and detached(None) is None
