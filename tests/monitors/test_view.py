from __future__ import annotations

from dataclasses import fields

import pytest

from rldk_tracking.callback import RLDKMetrics
from rldk_tracking.metrics.keys import lookup
from rldk_tracking.monitors.checkpoint import CheckpointMetrics
from rldk_tracking.monitors.ppo import PPOMetrics
from rldk_tracking.monitors.view import Snapshot


@pytest.mark.parametrize("container", [RLDKMetrics, PPOMetrics, CheckpointMetrics])
def test_every_field_shows_a_documented_key(container: type[Snapshot]) -> None:
    shown = [f.metadata["key"] for f in fields(container) if "key" in f.metadata]
    assert shown
    assert [key for key in shown if lookup(key) is None] == []


@pytest.mark.parametrize("container", [RLDKMetrics, PPOMetrics, CheckpointMetrics])
def test_what_was_never_measured_is_none(container: type[Snapshot]) -> None:
    assert set(container().to_dict().values()) == {None}
    assert set(container.from_row(3, {}).to_dict().values()) == {3, None}


def test_values_come_from_the_row() -> None:
    metrics = PPOMetrics.from_row(4, {"rldk/kl/ref_k1": 0.25, "rldk/reward/mean": 0.0})
    assert metrics.policy_kl_mean == 0.25
    assert metrics.rollout_reward_mean == 0.0, "a measured zero is not a missing value"
    assert metrics.value_loss is None
