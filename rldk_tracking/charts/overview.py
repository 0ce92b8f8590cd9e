"""What broke and when, in one picture: the incidents on a time line, and the charts that they are about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rldk_tracking.charts.figures import (
    BOTTOM,
    HEIGHT,
    RIGHT,
    SEVERITY_COLOURS,
    TEXT,
    TITLE_HEIGHT,
    WIDTH,
    axes_at,
    cut,
    drawn,
    plot_of,
    svg,
    title_at,
)
from rldk_tracking.charts.incidents import Incident, by_weight, overview_charts
from rldk_tracking.charts.series import Points

LANE_HEIGHT = 22
MOST_LANES = 6
MOST_PLOTS = 4


def time_line(incidents: Sequence[Incident], first: int, last: int, narrow: bool = False) -> str:
    """One lane for each incident, from where it was first seen to its end, over the steps of the run."""
    width = WIDTH if narrow else 2 * WIDTH
    if not incidents:
        return ""
    return svg(
        width,
        _lanes_height(incidents),
        "Alerts over the steps",
        lambda figure: _draw_lanes(figure, incidents, first, last, 0, width),
    )


def _lanes_height(incidents: Sequence[Incident]) -> float:
    return LANE_HEIGHT * len(incidents) + BOTTOM + 4


def _draw_lanes(figure: Figure, incidents: Sequence[Incident], first: int, last: int, top: float, width: float) -> Axes:
    left, last = min(190.0, 0.36 * width), max(last, first + 1)
    lanes = range(len(incidents))
    axes = axes_at(figure, left, top + 4, width - left - RIGHT, LANE_HEIGHT * len(incidents))
    axes.grid(visible=False)
    axes.set_ylim(len(incidents) - 0.5, -0.5)
    axes.set_xlim(first, last)
    axes.set_yticks(lanes, [cut(incident.rule, 24 if left < 190 else 32) for incident in incidents])
    axes.tick_params(axis="y", length=0)
    room = 70 / (width - left - RIGHT) * (last - first)
    for lane, incident in zip(lanes, incidents, strict=True):
        begin = min(max(incident.first_step, first), last)
        end = min(max(last if incident.ended is None else incident.ended, begin + room / 20), last)
        axes.barh(lane, end - begin, left=begin, height=0.62, color=SEVERITY_COLOURS[incident.severity])
        # Before the bar where there is room, else behind it, else in it.
        place, side = (
            (begin, "right") if begin - first > room else (end, "left") if last - end > room else (begin, "left")
        )
        colour, gid = ("black", "in-bar") if place == begin and side == "left" else (TEXT, None)
        axes.annotate(
            f"step {incident.first_step}", (place, lane), xytext=(-4 if side == "right" else 4, 0),
            textcoords="offset points", ha=side, va="center_baseline", color=colour, gid=gid,
        )  # fmt: skip
    axes.set_xlabel("step", labelpad=2)
    return axes


def overview(incidents: Sequence[Incident], series: Mapping[str, Points], columns: int = 2) -> str:
    """What broke and when, as one picture; empty where there is nothing to draw.

    Args:
        incidents: the run's alerts.
        series: its series, under the names of the catalogue.
        columns: of plots; a wider picture would push what stands beside it off MLflow's page, and 1 suits a phone.
    """
    charts = [chart for chart in overview_charts(incidents) if drawn(series.get(chart.key, []))][:MOST_PLOTS]
    if not charts:
        return ""
    steps = [step for chart in charts for step, _ in series[chart.key]]
    lanes = by_weight([incident for incident in incidents if incident.severity != "info"])[:MOST_LANES]
    top = _lanes_height(lanes) + TITLE_HEIGHT if lanes else 0
    row_height = TITLE_HEIGHT + HEIGHT
    height = top + row_height * -(-len(charts) // columns)

    def draw(figure: Figure) -> None:
        if lanes:
            title_at(figure, 8, 0, "Alerts, from the step where each was first seen")
            _draw_lanes(figure, lanes, min(steps), max(steps), TITLE_HEIGHT, WIDTH * columns)
        for number, chart in enumerate(charts):
            left, upper = WIDTH * (number % columns), top + row_height * (number // columns)
            title_at(figure, left + 8, upper, chart.title)
            plot = plot_of(replace(chart, beside=()), series, incidents)
            plot.draw(figure, left, upper + TITLE_HEIGHT)

    return svg(WIDTH * columns, height, "The alerts and their series over the steps", draw)
