"""Columns over the steps, histograms against counting by hand, and norms of layers: right, and never too many."""

from __future__ import annotations

import itertools
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rldk_tracking.charts.binning import Cadence, Columns, Distribution, LayersOverSteps, LiveHeatmap
from rldk_tracking.charts.heatmap import Heatmap
from rldk_tracking.charts.spec import REWARDS


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


VALUES = st.floats(-1e6, 1e6, allow_nan=False, allow_subnormal=False)


def made(batches: list[list[float]], bins: int = 8, steps: int = 4) -> Heatmap | None:
    distribution = Distribution("Rewards", bins, steps)
    for step, batch in enumerate(batches, 1):
        distribution.add(step, batch)
    return distribution.heatmap()


@given(st.lists(st.lists(VALUES, min_size=1, max_size=9), min_size=1, max_size=30))
def test_each_value_is_counted_in_its_bin_and_its_column(batches: list[list[float]]) -> None:
    found = made(batches)
    assert found is not None
    assert len(found.rows) <= 8
    assert len(found.steps) <= 4
    edges = np.array(found.edges)
    assert np.allclose(np.diff(edges), edges[1] - edges[0])
    ends = [*found.steps[1:], len(batches) + 1]
    for column, (start, end) in enumerate(zip(found.steps, ends, strict=True)):
        values = [value for batch in batches[start - 1 : end - 1] for value in batch]
        # Every bin takes its lower limit and not its upper one.
        counts = [sum(low <= v < high for v in values) for low, high in itertools.pairwise(edges)]
        shares = [row[column] for row in reversed(found.values)]
        assert shares == pytest.approx([count / len(values) for count in counts])


def test_what_moves_is_seen_to_move() -> None:
    rng = np.random.default_rng(0)
    distribution = Distribution("Rewards")
    for step in range(1, 401):
        distribution.add(step, rng.normal(0.0 if step <= 200 else 5.0, 0.3, size=64))
    found = distribution.heatmap()
    assert found is not None
    assert (len(found.rows) <= 24, len(found.steps) <= 48) == (True, True)

    def mode(column: int) -> float:
        place = max(range(len(found.rows)), key=lambda row: found.values[row][column] or 0.0)
        return found.edges[len(found.rows) - 1 - place]

    assert abs(mode(0)) <= 0.5
    assert 4.5 <= mode(-1) <= 5.5


def test_the_highest_bin_is_on_top_and_says_its_limits() -> None:
    found = made([[0.0, 1.0, 1.0, 1.0]])
    assert found is not None
    assert found.rows[0].startswith("1 to ")
    assert found.values[0] == (0.75,)
    assert found.rows[-1].startswith("0 to ")
    assert found.values[-1] == (0.25,)


def test_one_value_alone_and_none() -> None:
    found = made([[0.5, 0.5]])
    assert found is not None
    assert found.values == ((1.0,),)
    assert found.edges[0] <= 0.5 < found.edges[1]
    assert made([]) is None
    assert made([[math.nan, math.inf, -math.inf]]) is None


def test_what_is_not_finite_counts_nowhere() -> None:
    found = made([[1.0, math.nan, math.inf, 1e300]])
    assert found is not None
    assert found.values == ((1.0,),)


def test_memory_does_not_grow_with_the_run_nor_with_the_values() -> None:
    distribution = Distribution("Rewards", bins=8, steps=4)
    for step in range(1, 3000):
        distribution.add(step, [math.sin(step) * 1.01**step, 0.0])
    assert len(distribution._columns.all) <= 4
    assert all(len(column.sums) <= 8 for column in distribution._columns.all)


def test_the_mean_of_the_steps_of_a_column() -> None:
    over = LayersOverSteps("Gradients", rows=4, steps=2)
    for step in range(1, 5):
        over.add(step, {"embed": float(step), "head": 10.0})
    found = over.heatmap()
    assert found is not None
    assert found.rows == ("embed", "head")
    assert found.steps == (1, 3)
    assert found.values == ((1.5, 3.5), (10.0, 10.0))


def test_more_layers_than_rows_share_them() -> None:
    over = LayersOverSteps("Gradients", rows=3)
    over.add(1, {f"layers.{number}": float(number) for number in range(6)})
    found = over.heatmap()
    assert found is not None
    assert found.rows == ("layers.0 to layers.1", "layers.2 to layers.3", "layers.4 to layers.5")
    assert [row[0] for row in found.values] == pytest.approx([1.0, math.hypot(2, 3), math.hypot(4, 5)])


def test_a_layer_without_a_finite_norm_is_unknown_in_that_step() -> None:
    over = LayersOverSteps("Gradients")
    over.add(1, {"embed": 1.0, "head": 2.0})
    over.add(2, {"embed": 1.0})
    over.add(3, {"embed": 1.0, "head": math.nan})
    over.add(4, {"embed": math.inf})
    found = over.heatmap()
    assert found is not None
    assert found.steps == (1, 2, 3)
    assert found.values == ((1.0, 1.0, 1.0), (2.0, None, None))


def test_layers_that_come_later_get_a_row_as_long_as_there_is_room() -> None:
    over = LayersOverSteps("Gradients", rows=2)
    over.add(1, {"embed": 1.0})
    for step in range(2, 50):
        over.add(step, {"embed": 1.0, f"new.{step}": 2.0})
    found = over.heatmap()
    assert found is not None
    assert found.rows == ("embed", "new.2")


def test_nothing_yet() -> None:
    assert LayersOverSteps("Gradients").heatmap() is None


def versions(steps: int) -> list[int]:
    cadence = Cadence()
    made = []
    for step in range(1, steps + 1):
        cadence.count()
        if cadence.due:
            cadence.done()
            made.append(step)
    return made


def test_a_short_run_has_them_early() -> None:
    assert versions(60) == [5, 30, 55]


def test_news_need_not_wait_so_long_but_they_wait() -> None:
    cadence = Cadence()
    for _ in range(1000):
        cadence.count()
    cadence.done()
    possible = []
    for row in range(1001, 1110):
        cadence.count()
        assert not cadence.due or row >= 1100
        if cadence.possible:
            possible.append(row)
    assert possible[0] == 1025


def test_a_long_run_makes_them_ever_less_often() -> None:
    long = versions(100_000)
    assert len(long) < 90
    assert all(later - earlier == max(25, earlier // 10) for earlier, later in pairwise(long))


class Shown:
    """Notes what is published."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.heatmaps: list[Heatmap] = []

    def publish(self, method: str, key: str, heatmap: Heatmap, step: int) -> None:
        assert (method, key) == ("log_heatmap", REWARDS)
        self.steps.append(step)
        self.heatmaps.append(heatmap)


def live(shown: Shown) -> LiveHeatmap:
    return LiveHeatmap(REWARDS, Distribution("Rewards"), shown.publish)


def test_it_is_shown_early_and_then_ever_less_often() -> None:
    shown = Shown()
    heatmap = live(shown)
    for step in range(1, 1001):
        heatmap.add(step, [0.0, 1.0])
    assert shown.steps[:4] == [5, 30, 55, 80]
    later = [after - before for before, after in zip(shown.steps, shown.steps[1:], strict=False)]
    assert later == sorted(later) and later[-1] > 70
    assert shown.heatmaps[0].steps == (1, 2, 3, 4, 5) and shown.heatmaps[0].title.startswith("Rewards")


def test_at_the_end_what_is_new_is_shown_once_under_its_own_step() -> None:
    shown = Shown()
    heatmap = live(shown)
    for step in (3, 4):
        heatmap.add(step, [0.5])
    heatmap.show()
    assert shown.steps == [4] and shown.heatmaps[0].steps == (3, 4)
    heatmap.show()
    assert shown.steps == [4], "there is nothing new"


def test_what_was_shown_in_time_is_not_shown_again_at_the_end() -> None:
    shown = Shown()
    heatmap = live(shown)
    for step in range(1, 6):
        heatmap.add(step, [0.5])
    assert shown.steps == [5]
    heatmap.show()
    assert shown.steps == [5]
    heatmap.add(6, [0.5])
    heatmap.show()
    assert shown.steps == [5, 6]


def test_without_data_there_is_no_picture() -> None:
    shown = Shown()
    heatmap = live(shown)
    heatmap.show()
    for step in range(1, 8):
        heatmap.add(step, [float("nan")])
    heatmap.show()
    assert shown.steps == []
    heatmap.add(9, [1.0])
    assert shown.steps == [9], "the first that can be drawn is due already"
