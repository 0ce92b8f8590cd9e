"""The state of the chart page, and its way into a tag and back."""

from __future__ import annotations

from rldk_tracking.charts.mlflow import TAG_LENGTH
from rldk_tracking.charts.spec import SECTIONS, sections
from rldk_tracking.charts.view_state import packed, view_state
from rldk_tracking.keys import CATALOGUE
from tests.charts.saved_views import unpacked

GRPO = ["rldk/reward/mean", "rldk/kl/ref_k3", "rldk/kl/limit", "rldk/reward/group_tied_fraction", "loss"]


def test_a_limit_is_drawn_beside_its_series_and_an_axis_has_the_bounds_of_its_unit() -> None:
    series = ["rldk/kl/ref_k3", "rldk/kl/limit", "rldk/health/score", "rldk/grad/norm"]
    cards = {card["metricKey"]: card for card in view_state(sections(series), series)["compareRunCharts"]}
    assert cards["rldk/kl/ref_k3"]["selectedMetricKeys"] == ["rldk/kl/ref_k3", "rldk/kl/limit"]
    assert cards["rldk/health/score"]["range"] == {"yMin": -0.02, "yMax": 1.02}
    assert (cards["rldk/grad/norm"]["scaleType"], cards["rldk/grad/norm"]["range"]) == ("log", {})


def test_the_series_that_no_chart_draws_are_kept_from_making_charts() -> None:
    chosen = sections(GRPO)
    cards = view_state(chosen, GRPO)["compareRunCharts"]
    gone = {card["metricKey"] for card in cards if card["deleted"]}
    assert "rldk/kl/ref_k2" in gone
    assert "rldk/kl/ref_k3" not in gone
    assert gone <= set(CATALOGUE)
    assert len({card["uuid"] for card in cards}) == len(cards)


def test_the_whole_specification_fits_into_the_tag() -> None:
    every = {name for name in CATALOGUE if "<" not in name} | {f"rldk/reward/function/f{n}/mean" for n in range(50)}
    tag = packed(view_state(sections(every), every), 1, 2)
    assert len(unpacked(tag)["compareRunSections"]) == len(SECTIONS)
    assert len(tag) < TAG_LENGTH / 2
