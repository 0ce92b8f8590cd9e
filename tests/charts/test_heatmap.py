"""A heat-map as data, there and back through JSON, and when a growing one is shown."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rldk_tracking.charts.heatmap import Heatmap
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


def test_each_belongs_to_a_section_and_has_a_title() -> None:
    keys: set[Any] = {key for section in SECTIONS for key in section.heatmaps}
    assert keys == {REWARDS, GRADIENTS} == set(HEATMAP_TITLES)
