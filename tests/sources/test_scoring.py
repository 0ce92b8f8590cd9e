"""Rewards and texts are this rank's part of the logs' last batch."""

from __future__ import annotations

import math
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rldk_tracking.sources.generation import Generation
from rldk_tracking.sources.scoring import stop_ids, with_rewards


def trainer(rank: int = 0, ranks: int = 1, **fields: Any) -> Any:
    rows = 2 * ranks
    logs = {
        "rewards": {
            "a": deque([9.0, *map(float, range(rows))], maxlen=64),
            "b": deque([math.nan] * rows, maxlen=64),
        },
        "prompt": deque(["old", *(f"p{row}" for row in range(rows))], maxlen=64),
        "completion": deque([[{"role": "assistant", "content": f"c{row}"}] for row in range(rows)], maxlen=64),
    }
    fields = {"_logs": logs, "reward_weights": torch.tensor([1.0, 0.5]), "reward_func_names": ["a", "b"], **fields}
    accelerator = SimpleNamespace(num_processes=ranks, process_index=rank)
    return SimpleNamespace(accelerator=accelerator, num_generations=2, **fields)


def generation() -> Generation:
    return Generation(0, {"completion_ids": torch.zeros(2, 3, dtype=torch.long)})


@pytest.mark.parametrize(("rank", "ranks"), [(0, 1), (0, 3), (2, 3)])
def test_a_rank_has_its_own_rows_of_the_last_batch(rank: int, ranks: int) -> None:
    made = generation()
    with_rewards(made, trainer(rank, ranks))
    assert made.rewards["a"] == [2.0 * rank, 2.0 * rank + 1]
    assert all(math.isnan(value) for value in made.rewards["b"])
    assert made.weights == {"a": 1.0, "b": 0.5}
    assert made.prompts == (f"p{2 * rank}", f"p{2 * rank + 1}")
    assert made.completions == (f"c{2 * rank}", f"c{2 * rank + 1}")
    assert (made.first_row, made.all_rows, made.groups) == (2 * rank, 2 * ranks, ranks)


def test_logs_that_hold_too_little_give_nothing() -> None:
    made = generation()
    with_rewards(made, trainer(_logs={"rewards": {"a": [1.0]}, "prompt": ["x"]}))
    assert made.rewards == {} and made.prompts is None and made.completions is None
    with_rewards(made, trainer(_logs=None))
    assert made.rewards == {}


@pytest.mark.parametrize("weights", [None, [1.0]])
def test_weights_that_do_not_fit_are_not_used(weights: Any) -> None:
    made = generation()
    with_rewards(made, trainer(reward_weights=weights))
    assert made.weights == {} and made.rewards


def test_the_tokens_that_end_a_completion() -> None:
    tokenizer = SimpleNamespace(eos_token_id=7, pad_token_id=3)
    assert stop_ids(SimpleNamespace(_tokenizer=tokenizer)) == (7, 3)
    assert stop_ids(SimpleNamespace(_tokenizer=tokenizer, eos_token_ids=[7, 9])) == (7, 9, 3)
    processor = SimpleNamespace(tokenizer=tokenizer)
    assert stop_ids(SimpleNamespace(processing_class=processor)) == (7, 3)
    assert stop_ids(SimpleNamespace()) == ()
