"""An observation holds nothing unless something was seen."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from rldk_tracking.rollout import Rollout
from rldk_tracking.sources.base import Observation


def test_an_empty_observation() -> None:
    seen = Observation()
    assert seen.rollout is None and seen.update is None and dict(seen.scalars) == {}


def test_it_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Observation().scalars = {}  # type: ignore[misc]


def test_the_tensors_are_put_together_when_they_are_asked_for_and_once() -> None:
    calls = []
    rollout = Rollout(mask=torch.ones(2, 3))

    def read_tensors() -> tuple[Rollout, None]:
        calls.append(1)
        return rollout, None

    seen = Observation({"rldk/train/loss": 1.0}, read_tensors)
    assert not calls
    assert seen.rollout is rollout and seen.update is None and seen.rollout is rollout
    assert len(calls) == 1
