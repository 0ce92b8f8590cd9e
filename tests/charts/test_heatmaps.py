"""When a growing heat-map is shown, and what of it."""

from __future__ import annotations

from typing import Any

from rldk_tracking.charts.distribution import Distribution
from rldk_tracking.charts.heatmap import Heatmap
from rldk_tracking.charts.heatmaps import LiveHeatmap
from rldk_tracking.charts.spec import GRADIENTS, HEATMAP_TITLES, REWARDS, SECTIONS


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
