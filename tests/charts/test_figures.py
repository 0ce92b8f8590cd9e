"""Pictures are well-formed, their points are where they belong, texts stay texts, limits and incidents are seen."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rldk_tracking.charts.figures import (
    BOTTOM,
    COLOURS,
    HEIGHT,
    LEFT,
    MOST_POINTS,
    RIGHT,
    SEVERITY_COLOURS,
    WIDTH,
    line_chart,
    plot_of,
    runs_svg,
)
from rldk_tracking.charts.incidents import Incident, incidents_of
from rldk_tracking.charts.series import Points
from rldk_tracking.charts.spec import Chart, chart_of
from rldk_tracking.health.alert import Alert
from rldk_tracking.messages.packages import install_line
from tests.charts.svg import groups, parsed, points, style, texts

Make = Callable[..., Alert]


def chart_svg(chart: Chart, series: dict[str, Points], incidents: list[Incident]) -> str:
    return plot_of(chart, series, incidents).svg()


RAMP = [(step, 0.1 * step) for step in range(1, 21)]


def test_points_lie_where_the_values_say() -> None:
    ((first, middle, last),) = points(line_chart([("a", [(0, 0.0), (5, 0.5), (10, 1.0)])], bounds=(0.0, 1.0)), "a")
    assert [x for x, _ in (first, middle, last)] == pytest.approx(
        [LEFT, (LEFT + WIDTH - RIGHT) / 2, WIDTH - RIGHT], abs=4
    )
    assert middle[1] - first[1] == pytest.approx(last[1] - middle[1], abs=0.1)
    # A little room is left above and below the bounds.
    assert HEIGHT - BOTTOM - first[1] == pytest.approx((first[1] - last[1]) * 0.05, abs=0.5)


def test_a_logarithmic_axis_spaces_magnitudes_evenly() -> None:
    (line,) = points(line_chart([("a", [(0, 1.0), (1, 10.0), (2, 100.0)])], logarithmic=True), "a")
    heights = [y for _, y in line]
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.2)


def test_a_zero_makes_a_logarithmic_axis_linear() -> None:
    values = [(0, 0.0), (1, 50.0), (2, 100.0)]
    assert points(line_chart([("a", values)], logarithmic=True), "a") == points(line_chart([("a", values)]), "a")


finite = st.floats(-1e300, 1e300, allow_nan=False)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(0, 10**6), finite), min_size=1, max_size=8), min_size=1, max_size=4))
def test_whatever_the_values_every_point_is_inside(series: list[list[tuple[int, float]]]) -> None:
    lines = [(f"s/{n}", sorted(values, key=lambda point: point[0])) for n, values in enumerate(series)]
    picture = line_chart(lines)
    assert bool(picture) == any(abs(value) < 1e150 for _, values in lines for _, value in values)
    for name, _ in lines if picture else ():
        for x, y in (point for path in points(picture, name) for point in path if len(path) > 1):
            assert math.isfinite(x) and LEFT - 0.1 <= x <= WIDTH - RIGHT + 0.1
            assert math.isfinite(y) and 0 <= y <= HEIGHT - BOTTOM + 0.1


def test_what_is_no_number_is_left_out() -> None:
    (line,) = points(line_chart([("a", [(0, 1.0), (1, math.nan), (2, math.inf), (3, 2.0)])]), "a")
    assert len(line) == 2
    assert line_chart([("a", [(0, math.nan)])]) == ""


def test_a_long_series_is_drawn_with_few_points_and_every_peak() -> None:
    values = [(step, 50.0 if step == 77_777 else 1.0) for step in range(100_000)]
    (line,) = points(line_chart([("a", values)]), "a")
    assert len(line) <= MOST_POINTS + 1
    heights = sorted(y for _, y in line)
    assert heights[1] - heights[0] > 100, "the peak"


def test_the_axes_say_what_they_are() -> None:
    shown = texts(chart_svg(chart_of("rldk/kl/ref_k3"), {"rldk/kl/ref_k3": RAMP}, []))
    assert "step" in shown and "nats per token" in shown
    without_unit = {"rldk/weight/norm": [(20, 200.0), (40, 400.0)]}
    assert "1" not in texts(chart_svg(chart_of("rldk/weight/norm"), without_unit, []))


def test_a_single_point_is_a_dot_and_a_limit_is_dashed() -> None:
    picture = line_chart([("a", [(3, 1.0)])], limit=[(0, 2.0), (5, 2.0)])
    assert "<use " in picture[picture.index('id="a"') : picture.index('id="limit"')]
    assert "stroke-dasharray" in style(picture, "limit")
    assert "limit" in texts(picture)


def test_the_limit_of_a_rule_is_drawn_where_the_chart_shows_what_was_judged(make_alert: Make) -> None:
    series = {"rldk/kl/ref_k3": RAMP}
    chart = chart_of("rldk/kl/ref_k3")
    charted = incidents_of([make_alert(value=RAMP[4][1], threshold=0.3)])
    ((left, right),) = points(chart_svg(chart, series, charted), "limit")
    (line,) = points(chart_svg(chart, series, charted), "rldk/kl/ref_k3")
    assert left[1] == right[1] == pytest.approx(line[2][1], abs=0.2), "the third value is 0.3"
    a_ratio = incidents_of([make_alert(value=30.1234, threshold=10.0)])
    assert "limit" not in groups(chart_svg(chart, series, a_ratio))


def test_names_are_text_and_the_legend_leaves_out_what_they_share() -> None:
    hostile = 'rldk/x/<script>"&'
    picture = line_chart([(hostile, [(0, 1.0), (1, 2.0)]), ("rldk/x/b", [(0, 1.0), (1, 2.0)])])
    assert '<script>"&' in texts(picture) and "b" in texts(picture)
    assert "<script>" not in picture
    functions = [(f"rldk/reward/function/{name}/mean", [(0, 1.0)]) for name in ("a", "b")]
    assert {"a/mean", "b/mean"} <= set(texts(line_chart(functions)))
    many = texts(line_chart([(f"r/{n}", [(0, 1.0)]) for n in range(7)]))
    assert "and 3 more" in many


@pytest.mark.parametrize("name", ["$x_$", "a\x00b\u202e", "__", "日本語", "x" * 300])
def test_any_name_can_be_drawn(name: str) -> None:
    picture = line_chart([(name, [(0, 1.0), (1, 2.0)]), ("other", [(0, 1.0)])], title=name)
    assert parsed(picture).attrib["role"] == "img"
    assert all(len(text) <= 40 for text in texts(picture))


def test_incidents_are_shaded_from_first_seen_to_over(make_alert: Make) -> None:
    incidents = incidents_of([make_alert(step=4, first_step=2), make_alert(state="resolved", step=6)])
    picture = line_chart([("a", [(0, 0.0), (2, 0.0), (6, 0.0), (10, 1.0)])], marked=incidents)
    (shade,), (line,) = points(picture, "shade kl.high"), points(picture, "a")
    assert min(x for x, _ in shade) == pytest.approx(line[1][0], abs=0.1)
    assert max(x for x, _ in shade) == pytest.approx(line[2][0], abs=0.1)
    assert SEVERITY_COLOURS["warning"].lower() in style(picture, "shade kl.high")


def test_the_gravest_incident_is_shaded_in_every_chart(make_alert: Make) -> None:
    alerts = [
        make_alert("grad.explosion", key="rldk/grad/norm", severity="critical"),
        make_alert("entropy.collapse", key="rldk/policy/entropy"),
        make_alert("reward.saturated", key="rldk/policy/entropy", severity="info"),
    ]
    series = {"rldk/reward/mean": RAMP, "rldk/policy/entropy": RAMP}

    def shades(key: str) -> set[str]:
        return {name for name in groups(chart_svg(chart_of(key), series, incidents_of(alerts))) if "shade" in name}

    assert shades("rldk/reward/mean") == {"shade grad.explosion"}
    assert shades("rldk/policy/entropy") == {"shade grad.explosion", "shade entropy.collapse"}


def test_every_run_has_a_line_of_its_own() -> None:
    lines = [(f"run {n}", RAMP) for n in range(8)]
    picture = runs_svg(chart_of("rldk/reward/mean"), lines)
    assert [name for name in groups(picture) if name.startswith("run ")] == [name for name, _ in lines]
    assert len({style(picture, name) for name, _ in lines}) == 8


def seen_by_the_colour_blind(colour: str, weak: str) -> tuple[float, ...]:
    """sRGB as people without red or green cones see it, after Viénot, Brettel and Mollon (1999)."""
    red, green, blue = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    red, green, blue = (channel**2.2 for channel in (red, green, blue))
    mixed = 0.11238 * red + 0.88762 * green if weak == "red" else 0.29275 * red + 0.70725 * green
    return mixed ** (1 / 2.2), blue ** (1 / 2.2)


@pytest.mark.parametrize("weak", ["red", "green"])
def test_colour_blind_people_can_tell_the_colours_apart(weak: str) -> None:
    for colours in (COLOURS[:4], list(SEVERITY_COLOURS.values())):
        seen = [seen_by_the_colour_blind(colour, weak) for colour in colours]
        assert min(math.dist(one, other) for one, other in combinations(seen, 2)) > 0.15


def test_what_a_person_has_configured_stays_and_does_not_count() -> None:
    import matplotlib

    before = line_chart([("a", RAMP)])
    with matplotlib.rc_context({"text.usetex": True, "svg.fonttype": "path", "lines.linewidth": 9}):
        assert line_chart([("a", RAMP)]) == before
        assert matplotlib.rcParams["lines.linewidth"] == 9
    assert "matplotlib.pyplot" not in sys.modules, "drawing needs no state of a whole process"


def test_nothing_gives_no_picture() -> None:
    assert line_chart([]) == ""
    assert line_chart([("a", [])]) == ""


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "rldk_tracking.charts.figures")
    with pytest.raises(ImportError, match=re.escape(install_line("report"))):
        __import__("rldk_tracking.charts.figures")
