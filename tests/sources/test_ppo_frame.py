"""Variables are found in the frame of the right trainer, and nothing stays behind on it."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rldk_tracking.sources.ppo_frame import train_variables


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
