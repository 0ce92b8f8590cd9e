"""Which key is read, that a constant 0 is not a measurement, and what a direction is."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from rldk_tracking.health.conditions.base import Condition, Finding, Row, sign_of


@dataclass(eq=False)
class Reader(Condition):
    zero_is_missing: bool = False

    def judge(self, step: int, row: Row) -> Finding | None:
        value = self.read(row)
        return None if value is None else Finding(False, True, value, key=self.key)


def test_the_first_key_that_appears_is_kept() -> None:
    reader = Reader(("a", "b"))
    assert reader.judge(0, {"c": 1.0}) is None
    assert reader.judge(1, {"b": 2.0}).value == 2.0
    assert reader.judge(2, {"a": 3.0}) is None, "another estimator of the quantity"
    assert reader.judge(3, {"a": 3.0, "b": 4.0}).value == 4.0


def test_the_preferred_key_wins_in_one_row() -> None:
    assert Reader(("a", "b")).judge(0, {"b": 1.0, "a": 2.0}).key == "a"


def test_zeros_count_once_something_else_was_seen() -> None:
    reader = Reader(("a",), zero_is_missing=True)
    read = [reader.judge(i, {"a": v}) for i, v in enumerate([0.0, 0.0, 0.5, 0.0])]
    assert [finding and finding.value for finding in read] == [None, None, 0.5, 0.0]
    assert Reader(("a",)).judge(0, {"a": 0.0}).value == 0.0


def test_direction_is_checked() -> None:
    with pytest.raises(ValueError, match="sideways"):
        sign_of("sideways")
