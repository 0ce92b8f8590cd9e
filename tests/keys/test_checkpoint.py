"""Series of saved weights."""

from __future__ import annotations

from rldk_tracking.keys.checkpoint import KEYS
from rldk_tracking.keys.key import SCORE


def test_they_are_measured_on_what_was_saved() -> None:
    assert {key.source for key in KEYS} == {"checkpoint"}


def test_a_part_of_the_score_is_a_score() -> None:
    scores = [key for key in KEYS if key.unit == SCORE]
    assert len(scores) > 1
    assert {key.direction for key in scores} == {"higher"}
