"""A heat-map as data: there and back through JSON, and as a picture."""

from __future__ import annotations

import json
import math
from typing import Any
from xml.etree import ElementTree

import pytest

from rldk_tracking.charts.heatmap import BROKEN, UNKNOWN, Heatmap, heatmap_svg

MADE = Heatmap("Rewards", ("1 to 2", "0 to 1"), (1, 5), ((0.25, None), (0.75, 1.0)), edges=(0.0, 1.0, 2.0))


def test_it_comes_back_from_json_as_it_was() -> None:
    assert Heatmap.of(json.loads(json.dumps(MADE.as_dict()))) == MADE


def test_its_cells() -> None:
    assert list(MADE.cells()) == [(1, "1 to 2", 0.25), (1, "0 to 1", 0.75), (5, "0 to 1", 1.0)]


def test_its_picture_has_a_rectangle_for_each_place() -> None:
    picture = ElementTree.fromstring(MADE.svg())
    titles = [title.text for title in picture.iter("{http://www.w3.org/2000/svg}title")]
    assert sorted(filter(None, titles)) == sorted(
        ["1 to 2, step 1: 0.25", "0 to 1, step 1: 0.75", "1 to 2, step 5: no value", "0 to 1, step 5: 1"]
    )


def test_names_of_strangers_are_text() -> None:
    picture = Heatmap("<script>alert(1)</script>", ("</svg><script>",), (1,), ((1.0,),)).svg()
    assert "<script>" not in picture
    ElementTree.fromstring(picture)


@pytest.mark.parametrize(
    "change",
    [{"values": [[1.0, 2.0]]}, {"values": [[1.0], [2.0]]}, {"values": [["x", 1], [1, 1]]}, {"steps": None}],
)
def test_what_is_none_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        Heatmap.of(MADE.as_dict() | change)


SVG = "{http://www.w3.org/2000/svg}"


def cells(document: str) -> dict[str, str]:
    root = ElementTree.fromstring(document)
    return {rect.find(f"{SVG}title").text: rect.get("fill") for rect in root.iter(f"{SVG}rect")}  # type: ignore[union-attr, misc]


def test_a_drawn_cell_is_darker_for_larger() -> None:
    found = cells(heatmap_svg("Drift", {10: {"a.0": 1e-4, "a.1": 1e-2}, 20: {"a.0": 0.0, "a.1": math.nan, "b": 1e-3}}))
    assert len(found) == 6
    assert found["b, step 10: no value"] == UNKNOWN
    assert found["a.1, step 20: nan"] == BROKEN
    lightness = {name: int(colour[1:3], 16) for name, colour in found.items()}
    assert lightness["a.0, step 20: 0"] == lightness["a.0, step 10: 0.0001"] > lightness["b, step 20: 0.001"]
    assert lightness["b, step 20: 0.001"] > lightness["a.1, step 10: 0.01"]


def test_names_of_layers_are_escaped() -> None:
    document = heatmap_svg("<script>", {1: {'"><script>alert(1)</script>': 1.0}})
    assert "<script>" not in document
    assert len(cells(document)) == 1


def test_without_numbers() -> None:
    assert heatmap_svg("x", {}) == ""
    assert heatmap_svg("x", {1: {}}) == ""
    assert len(cells(heatmap_svg("x", {1: {"a": 0.0}}))) == 1
