"""Which heat-maps a run has, and when they are made anew."""

from __future__ import annotations

from rldk_tracking.charts.heatmaps import GRADIENTS, REWARDS, Heatmaps
from rldk_tracking.charts.spec import SECTIONS


def test_they_are_made_anew_now_and_then() -> None:
    heatmaps = Heatmaps()
    made = {}
    for step in range(1, 61):
        heatmaps.take(step, [0.0, 1.0], {"embed": 1.0})
        if heatmaps.due:
            made[step] = set(heatmaps.made())
    assert made == {step: {REWARDS, GRADIENTS} for step in (5, 30, 55)}


def test_only_what_there_is_data_for_and_only_news() -> None:
    heatmaps = Heatmaps()
    heatmaps.take(1, None, None)
    assert (heatmaps.due, heatmaps.made()) == (False, {})
    heatmaps.take(2, [0.5], None)
    assert set(heatmaps.made()) == {REWARDS}
    assert heatmaps.made() == {}


def test_an_old_measurement_counts_once() -> None:
    heatmaps = Heatmaps()
    measured = {"embed": 1.0}
    for step in range(1, 4):
        heatmaps.take(step, None, measured)
    assert heatmaps.made()[GRADIENTS].steps == (1,)


def test_each_belongs_to_a_section() -> None:
    assert {key for section in SECTIONS for key in section.heatmaps} == {REWARDS, GRADIENTS}
