"""Series of the policy."""

from __future__ import annotations

from rldk_tracking.keys.key import NATS
from rldk_tracking.keys.policy import KEYS


def test_they_are_computed_from_tensors() -> None:
    assert {key.source for key in KEYS} == {"rollout", "update"}


def test_a_divergence_is_in_nats() -> None:
    """Per token, so that it does not grow with the length, or of a whole completion, which then says so."""
    units = {key.name: key.unit for key in KEYS if key.name.startswith("rldk/kl/")}
    assert all(unit.startswith("nats") for unit in units.values())
    assert units["rldk/kl/ref_k1"] == units["rldk/kl/ref_k3"] == NATS
