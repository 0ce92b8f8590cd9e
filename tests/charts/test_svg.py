"""Pictures are well-formed, their points are where they belong, and texts in them stay texts."""

from __future__ import annotations

import math
from collections.abc import Callable
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rldk_tracking.charts.episodes import episodes
from rldk_tracking.charts.svg import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, line_chart, time_line
from rldk_tracking.health.alert import Alert

SVG = "{http://www.w3.org/2000/svg}"
Make = Callable[..., Alert]


def parsed(picture: str) -> ElementTree.Element:
    return ElementTree.fromstring(picture)


def points_of(picture: str) -> list[list[tuple[float, float]]]:
    root = parsed(picture)
    lines = [line.attrib["points"].split() for line in root.iter(f"{SVG}polyline")]
    return [[(float(x), float(y)) for x, y in (place.split(",") for place in line)] for line in lines]


def texts(picture: str) -> list[str]:
    return [element.text or "" for element in parsed(picture).iter(f"{SVG}text")]


def test_points_lie_where_the_values_say() -> None:
    (line,) = points_of(line_chart([("a", [(0, 0.0), (5, 0.5), (10, 1.0)])], bounds=(0.0, 1.0)))
    inner = HEIGHT - TOP - BOTTOM
    assert [x for x, _ in line] == pytest.approx([LEFT, (LEFT + WIDTH - RIGHT) / 2, WIDTH - RIGHT], abs=0.1)
    expected = [TOP + inner * (1.04 - value) / 1.08 for value in (0.0, 0.5, 1.0)]
    assert [y for _, y in line] == pytest.approx(expected, abs=0.1)


def test_a_logarithmic_axis_spaces_magnitudes_evenly() -> None:
    (line,) = points_of(line_chart([("a", [(0, 1.0), (1, 10.0), (2, 100.0)])], logarithmic=True))
    heights = [y for _, y in line]
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.2)


def test_a_zero_makes_a_logarithmic_axis_linear() -> None:
    points = [(0, 0.0), (1, 50.0), (2, 100.0)]
    assert points_of(line_chart([("a", points)], logarithmic=True)) == points_of(line_chart([("a", points)]))


finite = st.floats(-1e12, 1e12, allow_nan=False)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(0, 10**6), finite), min_size=1, max_size=8), min_size=1, max_size=6))
def test_whatever_the_values_every_point_is_inside(series: list[list[tuple[int, float]]]) -> None:
    lines = [(f"s{n}", sorted(points, key=lambda point: point[0])) for n, points in enumerate(series)]
    for line in points_of(line_chart(lines)):
        for x, y in line:
            assert math.isfinite(x) and LEFT - 0.1 <= x <= WIDTH - RIGHT + 0.1
            assert math.isfinite(y) and TOP - 0.1 <= y <= HEIGHT - BOTTOM + 0.1


def test_a_single_point_is_a_dot_and_a_limit_is_dashed() -> None:
    picture = line_chart([("a", [(3, 1.0)])], limit=[(0, 2.0), (5, 2.0)])
    root = parsed(picture)
    assert len(list(root.iter(f"{SVG}circle"))) == 1
    (dashed,) = [line for line in root.iter(f"{SVG}polyline") if "stroke-dasharray" in line.attrib]
    assert dashed.find(f"{SVG}title").text == "limit"  # type: ignore[union-attr]


def test_names_are_text_and_the_legend_leaves_out_what_they_share() -> None:
    hostile = 'rldk/x/<script>"&'
    shown = texts(line_chart([(hostile, [(0, 1.0), (1, 2.0)]), ("rldk/x/b", [(0, 1.0), (1, 2.0)])]))
    assert '<script>"&' in shown
    assert "b" in shown
    many = texts(line_chart([(f"r/{n}", [(0, 1.0)]) for n in range(7)]))
    assert "and 3 more" in many


def test_episodes_are_shaded_from_first_seen_to_over(make_alert: Make) -> None:
    told = episodes([make_alert(step=4, first_step=2), make_alert(state="resolved", step=6)])
    picture = line_chart([("a", [(0, 0.0), (10, 1.0)])], marked=told)
    shades = [r for r in parsed(picture).iter(f"{SVG}rect") if "opacity" in r.attrib]
    (shade,) = shades
    per_step = (WIDTH - LEFT - RIGHT) / 10
    assert float(shade.attrib["x"]) == pytest.approx(LEFT + 2 * per_step, abs=0.1)
    assert float(shade.attrib["width"]) == pytest.approx(4 * per_step, abs=0.1)


def test_the_time_line_has_a_lane_for_each_episode(make_alert: Make) -> None:
    told = episodes(
        [
            make_alert("<b>.x", step=2, first_step=2),
            make_alert("nan.weights", severity="critical", step=8, first_step=8),
            make_alert("<b>.x", state="resolved", step=5),
        ]
    )
    root = parsed(time_line(told, 0, 10))
    bars = list(root.iter(f"{SVG}rect"))
    titles = [bar.find(f"{SVG}title").text for bar in bars]  # type: ignore[union-attr]
    assert titles == [
        "<b>.x: first seen at step 2, over at step 5",
        "nan.weights: first seen at step 8, still open",
    ]
    widths = [float(bar.attrib["width"]) for bar in bars]
    assert widths[0] / widths[1] == pytest.approx(3 / 2, abs=0.02)


def test_nothing_gives_no_picture() -> None:
    assert line_chart([]) == ""
    assert line_chart([("a", [])]) == ""
    assert time_line([], 0, 1) == ""
