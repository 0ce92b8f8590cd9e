"""The picture is well-formed, shows every cell, and takes strangers' names."""

from __future__ import annotations

import math
from xml.etree import ElementTree

from rldk_tracking.checkpoint.heatmap import BROKEN, UNKNOWN, heatmap

SVG = "{http://www.w3.org/2000/svg}"


def cells(document: str) -> dict[str, str]:
    root = ElementTree.fromstring(document)
    return {rect.find(f"{SVG}title").text: rect.get("fill") for rect in root.iter(f"{SVG}rect")}  # type: ignore[union-attr, misc]


def test_cells() -> None:
    found = cells(heatmap("Drift", {10: {"a.0": 1e-4, "a.1": 1e-2}, 20: {"a.0": 0.0, "a.1": math.nan, "b": 1e-3}}))
    assert len(found) == 6
    assert found["b, step 10: no value"] == UNKNOWN
    assert found["a.1, step 20: nan"] == BROKEN
    lightness = {name: int(colour[1:3], 16) for name, colour in found.items()}
    assert lightness["a.0, step 20: 0"] == lightness["a.0, step 10: 0.0001"] > lightness["b, step 20: 0.001"]
    assert lightness["b, step 20: 0.001"] > lightness["a.1, step 10: 0.01"]


def test_names_are_escaped() -> None:
    document = heatmap("<script>", {1: {'"><script>alert(1)</script>': 1.0}})
    assert "<script>" not in document
    assert len(cells(document)) == 1


def test_without_numbers() -> None:
    assert heatmap("x", {}) == ""
    assert heatmap("x", {1: {}}) == ""
    assert len(cells(heatmap("x", {1: {"a": 0.0}}))) == 1
