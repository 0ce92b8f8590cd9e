"""Batches of other packages in the layout of TRL's."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from rldk_tracking.sources.batches import COLUMNS, batch_of, completion_columns, padding_of, what_lacks

TRAINER = SimpleNamespace(processing_class=SimpleNamespace(pad_token_id=7))


@dataclass
class ForLoss:
    completion_mask: Tensor
    advantages: Tensor
    ref_per_token_logps: Tensor
    rollout_per_token_logps: Tensor | None = None
    teacher_per_token_logps: Tensor | None = None


def nested(**more: Any) -> dict[str, Any]:
    """Rows "1 2 | 3 4" and "1 | 5 6", of which the last three tokens are kept."""
    ids = torch.tensor([[1, 2, 3, 4], [1, 5, 6, 7]])
    mask = torch.tensor([[0, 1, 1], [1, 1, 0]])
    values = torch.tensor([[90.0, 3.0, 4.0], [5.0, 6.0, 90.0]])
    attended = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    loss = ForLoss(mask, torch.tensor([[0.5] * 3, [-0.5] * 3]), values, **more)
    return {"model_inputs": {"input_ids": ids, "attention_mask": attended}, "grpo_batch": loss}


def test_a_row_is_cut_into_prompt_and_completion() -> None:
    for given in (nested(), [nested()]):
        batch = batch_of(given, TRAINER)
        assert what_lacks([batch]) == ""
        assert batch["completion_ids"].tolist() == [[3, 4, 7], [5, 6, 7]]
        assert batch["completion_mask"].tolist() == [[True, True, False], [True, True, False]]
        assert batch["prompt_ids"].tolist() == [[1, 2, 7, 7], [1, 7, 7, 7]]
        assert batch["prompt_mask"].int().tolist() == [[1, 1, 0, 0], [1, 0, 0, 0]]
        assert batch["ref_per_token_logps"].tolist() == [[3.0, 4.0, 90.0], [5.0, 6.0, 90.0]]
        assert batch["advantages"].tolist() == [0.5, -0.5]
        own = torch.tensor([[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]])
        assert completion_columns(batch, own).tolist() == own.gather(1, batch[COLUMNS]).tolist()


def test_what_the_sampler_said_has_trls_name() -> None:
    batch = batch_of(nested(rollout_per_token_logps=torch.tensor([[90.0, 1.0, 2.0], [3.0, 4.0, 90.0]])), TRAINER)
    assert batch["sampling_per_token_logps"].tolist() == [[1.0, 2.0, 90.0], [3.0, 4.0, 90.0]]


def test_a_teacher_makes_advantages_of_tokens() -> None:
    batch = batch_of(nested(teacher_per_token_logps=torch.zeros(2, 3)), TRAINER)
    assert batch["advantages"].shape == (2, 3)


def test_log_probabilities_that_are_wider_than_the_completions() -> None:
    batch = {
        "prompt_ids": torch.tensor([[7, 7, 1], [1, 1, 1]]),
        "prompt_mask": torch.tensor([[0, 0, 1], [1, 1, 1]]),
        "completion_ids": torch.tensor([[3, 4], [5, 6]]),
        "completion_mask": torch.ones(2, 2),
        "ref_per_token_logps": torch.tensor([[3.0, 4.0, 90.0, 90.0], [90.0, 90.0, 5.0, 6.0]]),
        "max_left_pad": torch.tensor([[2], [2]]),
    }
    assert batch_of(batch, TRAINER)["ref_per_token_logps"].tolist() == [[3.0, 4.0], [5.0, 6.0]]
    del batch["max_left_pad"]
    assert batch_of(batch, TRAINER)["ref_per_token_logps"].shape == (2, 4), "of which nothing is known"


def test_trls_own_batch_is_as_it_was() -> None:
    batch = {name: torch.ones(2, 3) for name in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")}
    batch["old_per_token_logps"] = torch.ones(2, 3)
    found = batch_of(batch, TRAINER)
    assert found.keys() == batch.keys()
    assert all(found[name] is batch[name] for name in batch)


def test_what_cannot_be_cut_is_as_it_is_given() -> None:
    assert batch_of(None, TRAINER) is None
    assert batch_of([1, 2], TRAINER) == [1, 2]
    packed = nested()
    packed["model_inputs"]["input_ids"] = torch.ones(1, 8)
    assert what_lacks([batch_of(packed, TRAINER)]) == "without prompt_ids, completion_ids"
    assert "no tensors by name" in what_lacks([batch_of("text", TRAINER)])


def test_padding() -> None:
    assert padding_of(TRAINER) == 7
    assert padding_of(SimpleNamespace(processing_class=SimpleNamespace(tokenizer=TRAINER.processing_class))) == 7
    assert padding_of(SimpleNamespace()) == 0
