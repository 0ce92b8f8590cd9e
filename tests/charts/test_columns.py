"""Columns over the steps: what they add up to, and that they stay few."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rldk_tracking.charts.columns import Columns


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(-9, 9), max_size=3), min_size=1, max_size=70))
def test_every_value_is_in_the_column_of_its_step(rows: list[dict[str, int]]) -> None:
    columns: Columns[str] = Columns(8)
    for step, row in enumerate(rows, 1):
        columns.add(step, {name: float(value) for name, value in row.items()})
    assert len(columns.all) <= 8
    starts = [column.step for column in columns.all]
    assert starts == sorted(set(starts))
    for column, end in zip(columns.all, [*starts[1:], len(rows) + 1], strict=True):
        part = rows[column.step - 1 : end - 1]
        assert column.steps == len(part)
        for name in "abc":
            values = [row[name] for row in part if name in row]
            assert column.sums.get(name, 0) == sum(values)
            assert column.counts.get(name, 0) == len(values)


def test_all_but_the_last_column_are_of_one_length() -> None:
    columns: Columns[str] = Columns(8)
    for step in range(1, 101):
        columns.add(step, {"a": 1.0})
    assert {column.steps for column in columns.all[:-1]} == {16}


def test_a_step_in_two_parts_is_one() -> None:
    columns: Columns[str] = Columns(4)
    columns.add(1, {"a": 1.0})
    columns.add(1, {"a": 3.0, "b": 5.0})
    columns.add(2, {"a": 7.0})
    assert [(column.step, column.steps, column.means()) for column in columns.all] == [
        (1, 1, {"a": 2.0, "b": 5.0}),
        (2, 1, {"a": 7.0}),
    ]


def test_rows_that_get_one_name_are_added_up() -> None:
    columns: Columns[int] = Columns(4)
    columns.add(1, {0: 1.0, 1: 2.0, 2: 4.0})
    columns.rename(lambda place: place // 2)
    (column,) = columns.all
    assert (column.sums, column.counts, column.steps) == ({0: 3.0, 1: 4.0}, {0: 2, 1: 1}, 1)


@pytest.mark.parametrize("most", [0, 1, 7])
def test_it_must_be_possible_to_halve_them(most: int) -> None:
    with pytest.raises(ValueError, match="even"):
        Columns(most)
