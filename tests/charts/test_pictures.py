"""What broke is in one picture, with a time line; and heat-maps show each place."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from rldk_tracking.charts.heatmap import Heatmap
from rldk_tracking.charts.incidents import incidents_of
from rldk_tracking.charts.pictures import heatmap_svg, overview, time_line
from rldk_tracking.health.alert import Alert
from tests.charts.svg import groups, parsed, points, style, texts

Make = Callable[..., Alert]
SERIES = {
    key: [(step, 0.1 * step) for step in range(1, 21)]
    for key in ("rldk/reward/mean", "rldk/kl/ref_k3", "rldk/policy/entropy", "rldk/grad/norm", "rldk/kl/limit")
}


def drawn(picture: str) -> list[str]:
    return [name for name in groups(picture) if name.startswith("rldk/") or name == "limit"]


def test_the_time_line_has_a_lane_for_each_incident(make_alert: Make) -> None:
    incidents = incidents_of(
        [
            make_alert("<b>.x", step=2, first_step=2),
            make_alert("nan.weights", severity="critical", step=8, first_step=8),
            make_alert("<b>.x", state="resolved", step=5),
        ]
    )
    picture = time_line(incidents, 0, 10)
    assert {"<b>.x", "nan.weights", "step 2", "step 8", "step"} <= set(texts(picture))
    widths = []
    for rule in ("<b>.x", "nan.weights"):
        (corners,) = points(picture, f"lane {rule}")
        widths.append(max(x for x, _ in corners) - min(x for x, _ in corners))
    assert abs(widths[0] / widths[1] - 3 / 2) < 0.02
    assert "#d55e00" in style(picture, "lane nan.weights")


def test_no_label_of_a_time_line_leaves_the_picture(make_alert: Make) -> None:
    for step in (0, 500, 990):
        incidents = incidents_of([make_alert("a_family.with_a_very_long_name_of_a_rule", step=step, first_step=step)])
        for narrow in (False, True):
            picture = time_line(incidents, 0, 1000, narrow=narrow)
            width = float(parsed(picture).attrib["width"])
            assert max(len(text) for text in texts(picture)) <= (24 if narrow else 32)
            assert all(-1 <= x <= width for corners in points(picture, f"lane {incidents[0].rule}") for x, _ in corners)


def test_the_alert_its_step_and_its_series_come_first(make_alert: Make) -> None:
    picture = overview(incidents_of([make_alert("grad.explosion", key="rldk/grad/norm")]), SERIES)
    seen = texts(picture)
    assert {"grad.explosion", "step 10", "Gradient norm"} <= set(seen)
    assert drawn(picture) == ["rldk/grad/norm", "rldk/reward/mean", "rldk/kl/ref_k3", "limit", "rldk/policy/entropy"]
    # Shaded in all four, from the step where it was first seen.
    assert groups(picture).count("shade grad.explosion") == 4


def test_the_gravest_alert_decides_what_is_shown(make_alert: Make) -> None:
    incidents = [
        make_alert("grad.explosion", key="rldk/grad/norm", severity="warning"),
        make_alert("entropy.collapse", key="rldk/policy/entropy", severity="critical"),
        make_alert("reward.saturated", key="rldk/kl/limit", severity="info"),
    ]
    picture = overview(incidents_of(incidents), SERIES)
    assert drawn(picture) == ["rldk/policy/entropy", "rldk/grad/norm", "rldk/reward/mean", "rldk/kl/ref_k3", "limit"]
    assert "reward.saturated" not in texts(picture)


def test_a_healthy_run_shows_what_is_always_of_interest() -> None:
    picture = overview([], SERIES)
    assert drawn(picture) == ["rldk/reward/mean", "rldk/kl/ref_k3", "limit", "rldk/policy/entropy"]
    assert not any("Alerts" in text for text in texts(picture))


def test_an_alert_about_a_series_of_ones_own_and_one_without_any(make_alert: Make) -> None:
    own: dict[str, Any] = SERIES | {"rldk/user/<b>": [(1, 1.0), (2, 2.0)]}
    incidents = incidents_of([make_alert("users.rule", key="rldk/user/<b>"), make_alert("users.other", key=None)])
    picture = overview(incidents, own)
    assert "<b>" not in picture
    assert "rldk/user/<b>" in texts(picture) and "users.other" in texts(picture)


def test_many_alerts_stay_one_picture(make_alert: Make) -> None:
    incidents = incidents_of([make_alert(f"family.rule_{number}") for number in range(50)])
    for columns, height in ((2, 700), (1, 1100)):
        picture = overview(incidents, SERIES, columns)
        assert sum(text.startswith("family.rule_") for text in texts(picture)) == 6
        size = parsed(picture).attrib
        assert (float(size["width"]), float(size["height"]) < height) == (380 * columns, True)


def test_nothing_to_draw(make_alert: Make) -> None:
    assert overview(incidents_of([make_alert()]), {}) == ""
    assert time_line([], 0, 1) == ""


def colours(heatmap: Heatmap) -> list[list[str]]:
    """Of each place of a heat-map's picture, row by row, read back from the image in it."""
    import base64
    import io
    import re

    from PIL import Image

    data = re.search(r'base64,([^"]+)" id="cells"', heatmap_svg(heatmap))
    assert data is not None
    image = Image.open(io.BytesIO(base64.b64decode(data[1]))).convert("RGB")
    assert image.size == (len(heatmap.steps), len(heatmap.rows))
    width, height = image.size
    return [["#%02x%02x%02x" % image.getpixel((x, y)) for x in range(width)] for y in range(height)]  # type: ignore[misc, str-bytes-safe]  # noqa: UP031


def test_a_place_of_a_heat_map_is_darker_for_larger() -> None:
    nan = math.nan
    found = colours(Heatmap("Drift", ("a", "b", "c"), (10, 20), ((1e-4, 0.0), (1e-2, nan), (None, 1e-3))))
    assert found[2][0] == "#dddddd", "no value"
    assert found[1][1] == "#d55e00", "not finite"
    lightness = [[int(colour[1:3], 16) for colour in row] for row in found]
    assert lightness[0][0] == lightness[0][1] > lightness[2][1] > lightness[1][0]


def test_a_heat_map_has_its_names_steps_and_a_scale() -> None:
    hostile = '"><script>alert(1)</script>'
    picture = heatmap_svg(Heatmap("<script>", (hostile, "x" * 99), tuple(range(100)), ((1.0,) * 100, (0.001,) * 100)))
    assert "<script>" not in picture
    shown = texts(picture)
    assert hostile in shown and "<script>" in shown
    assert {"0", "99", "step"} <= set(shown) and {"0.01", "0.001", "1"} & set(shown)
    assert max(map(len, shown)) <= 30
    assert "not a finite number" not in picture


def test_a_heat_map_without_numbers() -> None:
    assert heatmap_svg(Heatmap("x", (), (), ())) == ""
    assert heatmap_svg(Heatmap("x", ("a",), (1,), ((None,),))) == ""
    assert colours(Heatmap("x", ("a",), (1,), ((0.0,),)))[0][0] > "#f0"
    assert colours(Heatmap("x", ("a",), (1,), ((math.nan,),))) == [["#d55e00"]]
