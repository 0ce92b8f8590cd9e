"""Pictures are well-formed, their points are where they belong, texts stay texts; what broke is in one picture."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rldk_tracking.charts.figures import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, line_chart, overview, time_line
from rldk_tracking.charts.incidents import incidents_of
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
    incidents = incidents_of([make_alert(step=4, first_step=2), make_alert(state="resolved", step=6)])
    picture = line_chart([("a", [(0, 0.0), (10, 1.0)])], marked=incidents)
    shades = [r for r in parsed(picture).iter(f"{SVG}rect") if "opacity" in r.attrib]
    (shade,) = shades
    per_step = (WIDTH - LEFT - RIGHT) / 10
    assert float(shade.attrib["x"]) == pytest.approx(LEFT + 2 * per_step, abs=0.1)
    assert float(shade.attrib["width"]) == pytest.approx(4 * per_step, abs=0.1)


def test_the_time_line_has_a_lane_for_each_episode(make_alert: Make) -> None:
    incidents = incidents_of(
        [
            make_alert("<b>.x", step=2, first_step=2),
            make_alert("nan.weights", severity="critical", step=8, first_step=8),
            make_alert("<b>.x", state="resolved", step=5),
        ]
    )
    root = parsed(time_line(incidents, 0, 10))
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


SERIES = {
    key: [(step, 0.1 * step) for step in range(1, 21)]
    for key in ("rldk/reward/mean", "rldk/kl/ref_k3", "rldk/policy/entropy", "rldk/grad/norm", "rldk/kl/limit")
}


def titles(picture: str, tag: str) -> list[str]:
    root = ElementTree.fromstring(picture)
    return [element[0].text or "" for element in root.iter(f"{SVG}{tag}") if len(element)]


def test_the_alert_its_step_and_its_series_come_first(make_alert: Make) -> None:
    picture = overview(incidents_of([make_alert("grad.explosion", key="rldk/grad/norm")]), SERIES)
    seen = texts(picture)
    assert seen.index("grad.explosion") < seen.index("step 10") < seen.index("Gradient norm")
    drawn = ["rldk/grad/norm", "rldk/reward/mean", "rldk/kl/ref_k3", "limit", "rldk/policy/entropy"]
    assert titles(picture, "polyline") == drawn
    # Shaded in all four, from the step where it was first seen.
    assert titles(picture, "rect").count("grad.explosion") == 4


def test_the_gravest_alert_decides_what_is_shown(make_alert: Make) -> None:
    incidents = [
        make_alert("grad.explosion", key="rldk/grad/norm", severity="warning"),
        make_alert("entropy.collapse", key="rldk/policy/entropy", severity="critical"),
        make_alert("reward.saturated", key="rldk/kl/limit", severity="info"),
    ]
    picture = overview(incidents_of(incidents), SERIES)
    drawn = ["rldk/policy/entropy", "rldk/grad/norm", "rldk/reward/mean", "rldk/kl/ref_k3", "limit"]
    assert titles(picture, "polyline") == drawn
    assert "reward.saturated" not in texts(picture)


def test_a_healthy_run_shows_what_is_always_of_interest() -> None:
    picture = overview([], SERIES)
    assert titles(picture, "polyline") == ["rldk/reward/mean", "rldk/kl/ref_k3", "limit", "rldk/policy/entropy"]
    assert not any("Alerts" in text for text in texts(picture))


def test_an_alert_about_a_series_of_ones_own_and_one_without_any(make_alert: Make) -> None:
    own: dict[str, Any] = SERIES | {"rldk/user/<b>": [(1, 1.0), (2, 2.0)]}
    incidents = incidents_of([make_alert("users.rule", key="rldk/user/<b>"), make_alert("users.other", key=None)])
    picture = overview(incidents, own)
    assert "<b>" not in picture
    assert texts(picture).count("rldk/user/<b>") == 2


def test_many_alerts_stay_one_picture(make_alert: Make) -> None:
    incidents = incidents_of([make_alert(f"family.rule_{number}") for number in range(50)])
    picture = overview(incidents, SERIES)
    assert sum(text.startswith("family.rule_") for text in texts(picture)) == 6
    size = ElementTree.fromstring(picture).attrib
    assert (int(size["width"]) <= 760, int(size["height"]) < 640) == (True, True)


def test_nothing_to_draw(make_alert: Make) -> None:
    assert overview(incidents_of([make_alert()]), {}) == ""
