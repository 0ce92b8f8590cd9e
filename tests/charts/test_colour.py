"""A run's colour: the hue tells its health, the shade tells it from others."""

from __future__ import annotations

from rldk_tracking.charts.colour import COLOURS, colour


def test_healthy_runs_differ_in_shade() -> None:
    shades = {colour(None, f"run-{number}") for number in range(40)}
    assert shades == set(COLOURS[None])
    assert colour("critical", "a") == colour("critical", "a")
    assert not set(COLOURS["warning"]) & set(COLOURS["critical"])
