"""A heat-map as data, there and back through JSON, and when a growing one is shown."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest

from rldk_tracking.charts.binning import Distribution
from rldk_tracking.charts.heatmap import Cadence, Heatmap, LiveHeatmap
from rldk_tracking.charts.pictures import heatmap_svg
from rldk_tracking.charts.spec import GRADIENTS, HEATMAP_TITLES, REWARDS, SECTIONS

MADE = Heatmap("Rewards", ("1 to 2", "0 to 1"), (1, 5), ((0.25, None), (0.75, 1.0)), edges=(0.0, 1.0, 2.0))


def test_it_comes_back_from_json_as_it_was() -> None:
    assert Heatmap.of(json.loads(json.dumps(MADE.as_dict()))) == MADE


def test_its_cells() -> None:
    assert list(MADE.cells()) == [(1, "1 to 2", 0.25), (1, "0 to 1", 0.75), (5, "0 to 1", 1.0)]


@pytest.mark.parametrize(
    "change",
    [{"values": [[1.0, 2.0]]}, {"values": [[1.0], [2.0]]}, {"values": [["x", 1], [1, 1]]}, {"steps": None}],
)
def test_what_is_none_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        Heatmap.of(MADE.as_dict() | change)


def test_columns_become_rows() -> None:
    made = Heatmap.of_columns("Drift", {20: {"b": 3.0, "a": 4.0}, 10: {"a": 1.0}})
    assert made == Heatmap("Drift", ("a", "b"), (10, 20), ((1.0, 4.0), (None, 3.0)))
    assert heatmap_svg(Heatmap.of_columns("x", {1: {}})) == ""


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


def test_each_belongs_to_a_section_and_has_a_title() -> None:
    keys: set[Any] = {key for section in SECTIONS for key in section.heatmaps}
    assert keys == {REWARDS, GRADIENTS} == set(HEATMAP_TITLES)
