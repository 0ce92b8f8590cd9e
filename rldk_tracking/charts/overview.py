"""What broke and when, in one picture: the alerts on a time line, and below it the series that they are about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from rldk_tracking.charts.episodes import Episode, by_weight
from rldk_tracking.charts.series import Points
from rldk_tracking.charts.spec import SECTIONS, Chart
from rldk_tracking.charts.svg import HEIGHT, WIDTH, line_chart, time_line, time_line_height
from rldk_tracking.keys import lookup

PLOTS = 4
PER_ROW = 2
"""A wider picture would push what stands beside it off MLflow's page."""
LANES = 6
TITLE = 22
ALWAYS = ("rldk/reward/mean", "rldk/kl/ref_k3", "rldk/policy/entropy", "rldk/length/mean", "rldk/health/score")
"""What is shown where there is room, in this order."""
CHARTS: dict[str, Chart] = {chart.key: chart for section in reversed(SECTIONS) for chart in section.charts}


def overview(told: Sequence[Episode], series: Mapping[str, Points]) -> str:
    """The picture as SVG; empty where there is nothing to draw.

    Args:
        told: the run's alerts.
        series: its series, under the names of the catalogue.
    """
    chosen = [chart for chart in _charts(told) if series.get(chart.key)][:PLOTS]
    if not chosen:
        return ""
    steps = [step for chart in chosen for step, _ in series[chart.key]]
    first, last = min(steps), max(steps)
    troubles = by_weight([episode for episode in told if episode.severity != "info"])[:LANES]
    top = time_line_height(troubles) + TITLE if troubles else 0
    parts = []
    if troubles:
        parts.append(_title(0, 0, "Alerts, from the step where each was first seen"))
        parts.append(_at(0, TITLE, time_line(troubles, first, last)))
    for number, chart in enumerate(chosen):
        left, upper = WIDTH * (number % PER_ROW), top + (TITLE + HEIGHT) * (number // PER_ROW)
        parts.append(_title(left, upper, _name(chart)))
        parts.append(_at(left, upper + TITLE, _plot(chart, series, troubles)))
    width, height = WIDTH * PER_ROW, top + (TITLE + HEIGHT) * -(-len(chosen) // PER_ROW)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" role="img"><rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>'
    )


def _charts(told: Sequence[Episode]) -> list[Chart]:
    """One for each alert's series, the gravest first, and then what is always of interest."""
    keys = [episode.key for episode in by_weight(told) if episode.key is not None and episode.severity != "info"]
    return [CHARTS.get(key, Chart(key, key)) for key in dict.fromkeys([*keys, *ALWAYS])]


def _plot(chart: Chart, series: Mapping[str, Points], troubles: Sequence[Episode]) -> str:
    limit = series.get(chart.limit) if chart.limit is not None else None
    return line_chart(
        [(chart.key, series[chart.key])],
        limit=limit,
        bounds=chart.bounds,
        logarithmic=chart.logarithmic,
        # The gravest is shaded everywhere, so that one sees what else changed with it.
        marked=[e for e in troubles if e.key == chart.key or e is troubles[0]],
    )


def _name(chart: Chart) -> str:
    known = lookup(chart.key)
    plain = known is None or known.unit in ("1", chart.title.lower())
    return chart.title if plain or known is None else f"{chart.title} ({known.unit})"


def _title(x: int, y: int, text: str) -> str:
    return f'<text x="{x + 8}" y="{y + 15}" font-size="13" font-weight="bold" fill="#222">{escape(text)}</text>'


def _at(x: int, y: int, picture: str) -> str:
    """A picture within the picture."""
    return picture.replace("<svg ", f'<svg x="{x}" y="{y}" ', 1)
