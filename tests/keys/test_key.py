"""A row of the catalogue."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from rldk_tracking.keys.key import Key


def test_a_row_cannot_be_changed() -> None:
    key = Key("rldk/kl/ref_k1", "nats per token", "Drift.", "mean", "rollout")
    assert (key.direction, key.reduce) == ("none", "mean")
    with pytest.raises(FrozenInstanceError):
        key.unit = "bits"  # type: ignore[misc]
