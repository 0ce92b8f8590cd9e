"""An observation holds nothing unless something was seen."""

from __future__ import annotations

import dataclasses

import pytest

from rldk_tracking.sources.base import Observation


def test_an_empty_observation() -> None:
    seen = Observation()
    assert seen.rollout is None and seen.update is None and dict(seen.scalars) == {}


def test_it_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Observation().scalars = {}  # type: ignore[misc]
