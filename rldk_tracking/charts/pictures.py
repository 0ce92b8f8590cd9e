"""Pictures as SVG of a run: its incidents on a time line, what broke with the charts that it is about, heat-maps."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

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
from rldk_tracking.charts.heatmap import Heatmap
from rldk_tracking.charts.incidents import Incident, by_weight, overview_charts
from rldk_tracking.charts.series import Points
from rldk_tracking.messages.arguments import printable

CELL_HEIGHT = 14
UNKNOWN, BROKEN = "#dddddd", "#D55E00"
"""Of a heat-map: no value, and one that is not finite."""
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
        axes.barh(
            lane,
            end - begin,
            left=begin,
            height=0.62,
            color=SEVERITY_COLOURS[incident.severity],
            gid=printable(f"lane {incident.rule}"),
        )
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


@functools.lru_cache(maxsize=4)  # a page and its report show the same
def heatmap_svg(heatmap: Heatmap) -> str:
    """One row a layer or bin, one column a step, darker for larger on a logarithmic scale; empty without numbers."""
    if not any(True for _ in heatmap.cells()):
        return ""
    names = [cut(row, 30, keep_end=True) for row in heatmap.rows]
    left = 16 + 6.2 * max(map(len, names))
    width, cells = left + 520, CELL_HEIGHT * len(names)
    values = np.array([[math.nan if v is None else v for v in row] for row in heatmap.values], dtype=float)
    is_missing = np.array([[value is None for value in row] for row in heatmap.values])
    is_broken = ~np.isfinite(values) & ~is_missing
    positive = values[np.isfinite(values) & (values > 0)]

    def draw(figure: Figure) -> None:
        title_at(figure, 8, 0, heatmap.title)
        axes = axes_at(figure, left, TITLE_HEIGHT + 6, width - left - 80, cells)
        axes.grid(visible=False)
        low, high = (float(positive.min()), float(positive.max())) if len(positive) else (0.1, 1.0)
        scale = ScalarMappable(LogNorm(low, high if high > low else low * 10, clip=True), "Blues")
        colours = scale.to_rgba(np.where(np.isfinite(values) & (values > 0), values, low))
        colours[is_missing], colours[is_broken] = to_rgba(UNKNOWN), to_rgba(BROKEN)
        axes.imshow(colours, aspect="auto", interpolation="none", gid="cells")
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(axis="y", length=0)
        chosen = sorted({round(part * (len(heatmap.steps) - 1) / 5) for part in range(6)})
        axes.set_xticks(chosen, [str(heatmap.steps[column]) for column in chosen])
        axes.set_xlabel("step", labelpad=2)
        if len(positive):
            bar = axes_at(figure, width - 66, TITLE_HEIGHT + 6, 10, cells)
            figure.colorbar(scale, cax=bar, format=FuncFormatter(lambda value, _: f"{value:.2g}"))
            bar.yaxis.set_minor_locator(NullLocator())
        if is_broken.any():
            axes.set_xlabel("step; orange-red: not a finite number", labelpad=2)

    return svg(width, TITLE_HEIGHT + 6 + cells + BOTTOM + 4, heatmap.title, draw)
