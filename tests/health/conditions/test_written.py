"""A user's expression as a condition."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rldk_tracking.health.conditions.written import Written
from rldk_tracking.health.expression import ExpressionError

KEY = "rldk/a"


def written(when: str, clear_when: str | None = None) -> Written:
    return Written((KEY,), when=when, clear_when=clear_when)


def test_a_comparison_reports_its_sides() -> None:
    condition = written('mean("a", 2) > 3')
    assert condition.judge(0, {KEY: 5.0}) is None
    finding = condition.judge(1, {KEY: 7.0})
    assert (finding.breached, finding.clear, finding.value, finding.threshold, finding.key) == (
        True,
        False,
        6.0,
        3.0,
        KEY,
    )


def test_its_own_way_back() -> None:
    condition = written('last("a") > 3', 'last("a") < 1')
    found = [condition.judge(i, {KEY: v}) for i, v in enumerate([5.0, 2.0, 0.5])]
    assert [(f.breached, f.clear) for f in found] == [(True, False), (False, False), (False, True)]


def test_rows_without_its_keys_are_none_of_its_business() -> None:
    condition = written('last("a") > 3')
    condition.judge(0, {KEY: 5.0})
    assert condition.judge(1, {"rldk/b": 1.0}) is None


def test_mistakes_name_the_field() -> None:
    with pytest.raises(ExpressionError, match="^clear_when: "):
        written('last("a") > 3', "nonsense(")


@given(st.lists(st.floats(-10, 10), max_size=30), st.integers(0, 30))
def test_state_goes_through_json(values: list[float], cut: int) -> None:
    text = 'consecutive(mean("a", 4) > 0, 3) or delta("a", 6) > 5'

    def run(condition: Written, part: list[float]) -> list[object]:
        return [condition.judge(0, {KEY: value}) for value in part]

    first, second = written(text, 'last("a") < 0'), written(text, 'last("a") < 0')
    before = run(first, values[:cut])
    second.load_state(json.loads(json.dumps(first.state())))
    assert before + run(second, values[cut:]) == run(written(text, 'last("a") < 0'), values)
