"""What broke and when, in one picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

from rldk_tracking.charts.episodes import episodes
from rldk_tracking.charts.overview import overview
from rldk_tracking.health.alert import Alert

SVG = "{http://www.w3.org/2000/svg}"
Make = Callable[..., Alert]
SERIES = {
    key: [(step, 0.1 * step) for step in range(1, 21)]
    for key in ("rldk/reward/mean", "rldk/kl/ref_k3", "rldk/policy/entropy", "rldk/grad/norm", "rldk/kl/limit")
}


def texts(picture: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(picture).iter(f"{SVG}text")]


def titles(picture: str, tag: str) -> list[str]:
    root = ElementTree.fromstring(picture)
    return [element[0].text or "" for element in root.iter(f"{SVG}{tag}") if len(element)]


def test_the_alert_its_step_and_its_series_come_first(make_alert: Make) -> None:
    picture = overview(episodes([make_alert("grad.explosion", key="rldk/grad/norm")]), SERIES)
    seen = texts(picture)
    assert seen.index("grad.explosion") < seen.index("step 10") < seen.index("Gradient norm")
    drawn = ["rldk/grad/norm", "rldk/reward/mean", "rldk/kl/ref_k3", "limit", "rldk/policy/entropy"]
    assert titles(picture, "polyline") == drawn
    # Shaded in all four, from the step where it was first seen.
    assert titles(picture, "rect").count("grad.explosion") == 4


def test_the_gravest_alert_decides_what_is_shown(make_alert: Make) -> None:
    told = [
        make_alert("grad.explosion", key="rldk/grad/norm", severity="warning"),
        make_alert("entropy.collapse", key="rldk/policy/entropy", severity="critical"),
        make_alert("reward.saturated", key="rldk/kl/limit", severity="info"),
    ]
    picture = overview(episodes(told), SERIES)
    drawn = ["rldk/policy/entropy", "rldk/grad/norm", "rldk/reward/mean", "rldk/kl/ref_k3", "limit"]
    assert titles(picture, "polyline") == drawn
    assert "reward.saturated" not in texts(picture)


def test_a_healthy_run_shows_what_is_always_of_interest() -> None:
    picture = overview([], SERIES)
    assert titles(picture, "polyline") == ["rldk/reward/mean", "rldk/kl/ref_k3", "limit", "rldk/policy/entropy"]
    assert not any("Alerts" in text for text in texts(picture))


def test_an_alert_about_a_series_of_ones_own_and_one_without_any(make_alert: Make) -> None:
    own: dict[str, Any] = SERIES | {"rldk/user/<b>": [(1, 1.0), (2, 2.0)]}
    told = episodes([make_alert("users.rule", key="rldk/user/<b>"), make_alert("users.other", key=None)])
    picture = overview(told, own)
    assert "<b>" not in picture
    assert texts(picture).count("rldk/user/<b>") == 2


def test_many_alerts_stay_one_picture(make_alert: Make) -> None:
    told = episodes([make_alert(f"family.rule_{number}") for number in range(50)])
    picture = overview(told, SERIES)
    assert sum(text.startswith("family.rule_") for text in texts(picture)) == 6
    size = ElementTree.fromstring(picture).attrib
    assert (int(size["width"]) <= 760, int(size["height"]) < 640) == (True, True)


def test_nothing_to_draw(make_alert: Make) -> None:
    assert overview(episodes([make_alert()]), {}) == ""
