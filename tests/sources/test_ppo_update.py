"""Micro-batches as the rows of an update; real trainings are in test_trl_ppo.py."""

from __future__ import annotations

import math
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rldk_tracking.isolation import Shield
from rldk_tracking.sources.ppo_update import MicroBatch, UpdateWatch, first_ratio, micro_batches, update_of


def batch(new: list[list[float]], old: list[list[float]], is_first: bool = True) -> MicroBatch:
    return MicroBatch(torch.tensor(new), torch.tensor(old), torch.zeros(len(new), len(new[0])), is_first)


# Padding holds 1.0 in both, as the trainer writes it.
FIRST = batch([[-1.0, -2.0, 1.0]], [[-1.0, -2.0, 1.0]])
MOVED = batch([[-1.0, 1.0, 1.0], [-0.5, -0.5, -0.5]], [[-1.5, 1.0, 1.0], [-0.5, -0.25, -0.5]], is_first=False)
TRAINER = SimpleNamespace(args=SimpleNamespace(cliprange=0.3))


def test_rows_are_stacked_and_padding_is_masked() -> None:
    update = update_of(TRAINER, [FIRST, MOVED])
    assert update.mask.tolist() == [[True, True, False], [True, False, False], [True, True, True]]
    assert torch.equal(update.new_logprobs, torch.cat([FIRST.new_logprobs, MOVED.new_logprobs]))
    assert (update.clip_low, update.clip_high) == (0.3, 0.3)


def test_nothing_can_be_clipped_before_the_first_step() -> None:
    update = update_of(TRAINER, [FIRST, FIRST])
    assert update.clip_low is None and update.clip_high is None and update.old_logprobs is not None


def test_the_first_ratio_is_over_the_tokens_before_a_step() -> None:
    assert float(first_ratio([FIRST, MOVED])) == 1.0
    off = MicroBatch(MOVED.new_logprobs, MOVED.old_logprobs, MOVED.advantages, True)
    by_hand = (1 + 1 + math.exp(0.5) + 1 + math.exp(-0.25) + 1) / 6
    assert float(first_ratio([FIRST, off])) == pytest.approx(by_hand)


@pytest.mark.parametrize(
    ("local", "micro", "minibatches", "epochs", "expected"), [(8, 4, 2, 3, 12), (8, 6, 3, 2, 12), (4, 4, 1, 1, 1)]
)
def test_how_many_backward_passes_an_update_has(
    local: int, micro: int, minibatches: int, epochs: int, expected: int
) -> None:
    args = SimpleNamespace(
        local_mini_batch_size=local,
        per_device_train_batch_size=micro,
        num_mini_batches=minibatches,
        num_ppo_epochs=epochs,
    )
    assert micro_batches(args) == expected


class Accelerator:
    sync_gradients = False

    def backward(self, loss: Any) -> str:
        return f"backward of {loss}"


class Trainer:
    """Two micro-batches to an update, each an optimiser step of its own."""

    def __init__(self) -> None:
        self.accelerator = Accelerator()
        self.args = SimpleNamespace(
            cliprange=0.2, num_ppo_epochs=1, num_mini_batches=2, local_mini_batch_size=1, per_device_train_batch_size=1
        )

    def train(self, passes: int) -> list[str]:
        padding_mask = torch.zeros(1, 2, dtype=torch.bool)
        results = []
        for number in range(passes):
            new_logprobs = mb_logprobs = mb_advantage = torch.full((1, 2), -float(number))
            self.accelerator.sync_gradients = True
            results.append(self.accelerator.backward(number))
            assert new_logprobs is mb_logprobs is mb_advantage and not padding_mask.any()
        return results


def watch_of(trainer: Trainer) -> UpdateWatch:
    return UpdateWatch(trainer, weakref.ref(trainer), Shield(strict=True))


def test_backward_is_called_as_before_and_put_back() -> None:
    trainer = Trainer()
    watch = watch_of(trainer)
    assert trainer.train(2) == ["backward of 0", "backward of 1"]
    taken = watch.take()
    assert [b.is_first for b in taken] == [True, False]
    assert [float(b.new_logprobs[0, 0]) for b in taken] == [0.0, -1.0]
    assert watch.take() == []
    watch.detach()
    assert "backward" not in vars(trainer.accelerator)
    trainer.train(1)
    assert watch.take() == []


def test_updates_that_nobody_takes_do_not_pile_up() -> None:
    trainer = Trainer()
    watch = watch_of(trainer)
    trainer.train(7)
    assert len(watch.take()) <= 2
    watch.detach()


def test_a_backward_pass_outside_of_the_loop_is_left_alone() -> None:
    trainer = Trainer()
    watch = watch_of(trainer)
    assert trainer.accelerator.backward("x") == "backward of x"
    assert watch.take() == []
    watch.detach()
