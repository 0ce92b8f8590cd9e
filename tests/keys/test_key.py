"""A row of the catalogue."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from rldk_tracking.keys import CATALOGUE
from rldk_tracking.keys.key import Key


def test_a_row_cannot_be_changed() -> None:
    key = Key("rldk/kl/ref_k1", "nats per token", "Drift.", "mean", "rollout")
    assert (key.direction, key.reduce) == ("none", "mean")
    with pytest.raises(FrozenInstanceError):
        key.unit = "bits"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "lowest", "highest"),
    [
        ("rldk/reward/mean", None, None),
        ("rldk/reward/std", 0.0, None),
        ("rldk/kl/ref_k1", None, None),
        ("rldk/kl/ref_k3", 0.0, None),
        ("rldk/policy/entropy", 0.0, None),
        ("rldk/policy/clip_fraction", 0.0, 1.0),
        ("rldk/reward/group_tied_fraction_all_max", 0.0, 1.0),
        ("rldk/length/mean", 0.0, None),
        ("rldk/grad/norm", 0.0, None),
        ("rldk/update/ratio/p50", 0.0, None),
        ("rldk/value/explained_variance", None, None),
        ("rldk/reward/pairwise_corr/min", None, None),
        ("rldk/preference/chosen_logps_drift", None, None),
        ("rldk/resources/host_rss_slope_gib_per_100_steps", None, None),
        ("rldk/health/score", 0.0, 1.0),
    ],
)
def test_what_values_a_series_can_have(name: str, lowest: float | None, highest: float | None) -> None:
    assert (CATALOGUE[name].lowest, CATALOGUE[name].highest) == (lowest, highest)
