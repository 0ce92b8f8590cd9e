"""Series of what completions are worth."""

from __future__ import annotations

from rldk_tracking.keys.reward import KEYS


def test_what_an_evaluation_says_is_known_from_its_logs_alone() -> None:
    assert {key.source for key in KEYS if key.name.startswith("rldk/eval/")} == {"logs"}


def test_what_training_is_for_is_better_when_it_is_higher() -> None:
    directions = {key.name: key.direction for key in KEYS}
    assert directions["rldk/reward/mean"] == "higher"
    assert directions["rldk/value/explained_variance"] == "higher"
