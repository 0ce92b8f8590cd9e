"""Variables are found in the frame of the right trainer, and nothing stays behind on it."""

from __future__ import annotations

import math
import sys
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rldk_tracking.isolation import Shield
from rldk_tracking.sources.ppo_frame import (
    MicroBatch,
    UpdateWatch,
    first_ratio,
    micro_batches,
    train_variables,
    update_of,
)


class Loop:
    """A training loop with its state in local variables."""

    def train(self, look: Callable[[], Any]) -> Any:
        padding_mask = torch.zeros(2, 3, dtype=torch.bool)
        scores = torch.ones(2)
        steps = 5
        found = look()
        assert padding_mask.shape[0] == len(scores) and steps == 5
        return found


class Derived(Loop):
    """Calls the loop from a `train` of its own, which has variables of the same names but no rollout."""

    def train(self, look: Callable[[], Any]) -> Any:
        scores = "none of ours"
        found = super().train(look)
        assert scores
        return found


@pytest.mark.parametrize("kind", [Loop, Derived])
def test_tensors_are_found_from_several_calls_below(kind: type[Loop]) -> None:
    loop = kind()

    def deeper() -> dict[str, Tensor]:
        return train_variables(loop, ("padding_mask", "scores", "steps", "absent"))

    found = loop.train(lambda: deeper())
    assert set(found) == {"padding_mask", "scores"}
    assert torch.equal(found["scores"], torch.ones(2))


def test_another_trainers_loop_is_passed_over() -> None:
    mine, other = Loop(), Loop()
    assert other.train(lambda: train_variables(mine, ("scores",))) == {}
    nested = mine.train(lambda: other.train(lambda: train_variables(mine, ("scores",))))
    assert set(nested) == {"scores"}


def test_outside_of_training_there_is_nothing() -> None:
    assert train_variables(Loop(), ("scores",)) == {}
    assert train_variables(object(), ("scores",)) == {}


class Dropping:
    def train(self, look: Callable[[], Any]) -> bool:
        padding_mask = torch.zeros(1)
        gone = weakref.ref(padding_mask)
        look()
        del padding_mask
        return gone() is None


def test_the_frame_holds_on_to_nothing() -> None:
    loop = Dropping()
    assert loop.train(lambda: train_variables(loop, ("padding_mask",)) and None)


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="from Python 3.13 a frame's variables are not copied")
def test_a_plain_look_would_hold_on() -> None:
    """That the test above can fail."""
    loop = Dropping()
    assert not loop.train(lambda: sys._getframe(1).f_locals and None)


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


class OfCompletions(Trainer):
    """As RLOO up to TRL 0.21: log-probabilities are summed over a completion before the backward pass."""

    def train(self, passes: int) -> list[str]:
        padding_mask = torch.tensor([[False, False], [False, True]])
        logprobs = torch.tensor([[-1.0, -2.0], [-3.0, 1.0]])
        new = torch.tensor([[-1.5, -2.0], [-2.0, 1.0]])
        micro_batch_inds = np.array([1, 0])
        new_ratio = (new[micro_batch_inds] - logprobs[micro_batch_inds]).exp()
        new_logprobs, mb_logprobs = new[micro_batch_inds].sum(1), logprobs[micro_batch_inds].sum(1)
        mb_advantage = torch.tensor([0.5, -0.5])
        result = self.accelerator.backward(passes)
        assert len(new_ratio) == len(new_logprobs) == len(mb_logprobs) == len(mb_advantage) == len(padding_mask)
        return [result]


def test_tokens_of_a_loop_that_sums_them() -> None:
    trainer = OfCompletions()
    watch = watch_of(trainer)
    trainer.train(1)
    (taken,) = watch.take()
    watch.detach()
    assert torch.equal(taken.old_logprobs, torch.tensor([[-3.0, 1.0], [-1.0, -2.0]]))
    assert torch.allclose(taken.new_logprobs, torch.tensor([[-2.0, 1.0], [-1.5, -2.0]]))
    update = update_of(trainer, [taken])
    assert update.sequence_level and update.mask.tolist() == [[True, False], [True, True]]
    assert not update_of(TRAINER, [FIRST]).sequence_level


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
