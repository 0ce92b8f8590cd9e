"""Series of the completions themselves."""

from __future__ import annotations

from rldk_tracking.keys.completions import KEYS
from rldk_tracking.keys.key import TOKENS


def test_they_are_computed_from_tensors() -> None:
    assert {key.source for key in KEYS} == {"rollout"}


def test_a_length_is_in_tokens_or_a_share() -> None:
    assert {key.unit for key in KEYS if key.name.startswith("rldk/length/")} == {TOKENS, "1"}
