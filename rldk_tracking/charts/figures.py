"""Line charts, a time line of incidents, and what broke in one picture, as SVG without anything from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from rldk_tracking.charts.incidents import Incident, by_weight
from rldk_tracking.charts.series import Points
from rldk_tracking.charts.spec import SECTIONS, Chart
from rldk_tracking.keys import lookup

WIDTH, HEIGHT = 380, 190
LEFT, RIGHT, TOP, BOTTOM = 54, 8, 8, 44
COLOURS = ("#1f77b4", "#9467bd", "#17becf", "#8c564b", "#7f7f7f", "#bcbd22")
LIMIT_COLOUR = "#d62728"
SEVERITY_COLOURS = {"info": "#7f7f7f", "warning": "#ff7f0e", "critical": "#d62728"}
LANE_HEIGHT = 22
MOST_PLOTS = 4
PLOTS_PER_ROW = 2
"""A wider picture would push what stands beside it off MLflow's page."""
MOST_LANES = 6
TITLE_HEIGHT = 22
ALWAYS_SHOWN = ("rldk/reward/mean", "rldk/kl/ref_k3", "rldk/policy/entropy", "rldk/length/mean", "rldk/health/score")
"""What is shown where there is room, in this order."""
CHART_OF: dict[str, Chart] = {chart.key: chart for section in reversed(SECTIONS) for chart in section.charts}


def line_chart(
    lines: Sequence[tuple[str, Points]],
    *,
    limit: Points | None = None,
    bounds: tuple[float, float] | None = None,
    logarithmic: bool = False,
    marked: Iterable[Incident] = (),
) -> str:
    """One plot over the trainer's steps.

    Args:
        lines: name and points of each series.
        limit: drawn dashed.
        bounds: of the y-axis; by default the data's own.
        logarithmic: a logarithmic y-axis, where all values are above 0.
        marked: incidents to shade, from where each was first seen to its end.
    """
    everything = [point for _, points in lines for point in points] + list(limit or ())
    if not everything:
        return ""
    logarithmic = logarithmic and all(value > 0 for _, value in everything)
    low, high = _range([value for _, value in everything], None if logarithmic else bounds, logarithmic)
    steps = [step for step, _ in everything]
    first, last = min(steps), max(max(steps), min(steps) + 1)

    def x(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (min(max(step, first), last) - first) / (last - first)

    def y(value: float) -> float:
        place = math.log10(value) if logarithmic else value
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - place) / (high - low)

    parts = [_shade(incident, x, last) for incident in marked]
    for tick in _ticks(low, high):
        shown = 10**tick if logarithmic else tick
        height = y(shown)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{height:.1f}" y2="{height:.1f}" stroke="#e4e4e4"/>')
        parts.append(_text(LEFT - 5, height + 3, f"{shown:.3g}", "end"))
    axis = HEIGHT - BOTTOM
    parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{axis}" y2="{axis}" stroke="#888"/>')
    for tick in (first, (first + last) // 2, last):
        parts.append(_text(x(tick), axis + 13, str(tick), "middle"))
    for number, (name, points) in enumerate(lines):
        parts.append(_line(name, points, x, y, COLOURS[number % len(COLOURS)], ""))
    if limit:
        parts.append(_line("limit", limit, x, y, LIMIT_COLOUR, "5 3"))
    parts += _legend([name for name, _ in lines], bool(limit))
    return _svg(WIDTH, HEIGHT, parts)


def time_line_height(incidents: Sequence[Incident]) -> int:
    """Of the picture that `time_line` makes."""
    return LANE_HEIGHT * len(incidents) + 26


def time_line(incidents: Sequence[Incident], first: int, last: int) -> str:
    """One lane for each incident, from where it was first seen to its end, over the steps of the run."""
    if not incidents:
        return ""
    last = max(last, first + 1)
    width, left = 2 * WIDTH, 190
    height = time_line_height(incidents)

    def x(step: float) -> float:
        return left + (width - left - 20) * (min(max(step, first), last) - first) / (last - first)

    parts = []
    for number, incident in enumerate(incidents):
        top = 4 + LANE_HEIGHT * number
        end = last if incident.ended is None else incident.ended
        begin = x(incident.first_step)
        bar = max(3.0, x(end) - begin)
        fill = SEVERITY_COLOURS[incident.severity]
        until = "still open" if incident.ended is None else f"over at step {incident.ended}"
        about = escape(f"{incident.rule}: first seen at step {incident.first_step}, {until}")
        parts.append(_text(left - 8, top + 12, incident.rule[:28], "end", 12))
        parts.append(
            f'<rect x="{begin:.1f}" y="{top + 2}" width="{bar:.1f}" height="{LANE_HEIGHT - 8}" rx="2" '
            f'fill="{fill}"><title>{about}</title></rect>'
        )
        parts.append(_step_label(begin, begin + bar, left, top + 12, incident.first_step))
    axis = LANE_HEIGHT * len(incidents) + 6
    parts.append(f'<line x1="{left}" x2="{width - 20}" y1="{axis}" y2="{axis}" stroke="#888"/>')
    for tick in (first, (first + last) // 2, last):
        parts.append(_text(x(tick), axis + 14, str(tick), "middle"))
    return _svg(width, height, parts)


def _step_label(begin: float, end: float, left: float, y: float, step: int) -> str:
    """The step at which a bar begins, where there is room for it: before the bar, else behind it, else in it."""
    if begin - left > 60:
        return _text(begin - 4, y, f"step {step}", "end")
    if end + 70 < 2 * WIDTH:
        return _text(end + 4, y, f"step {step}", "start")
    return _text(begin + 4, y, f"step {step}", "start").replace('fill="#444"', 'fill="white"')


def _range(values: Sequence[float], bounds: tuple[float, float] | None, logarithmic: bool) -> tuple[float, float]:
    places = [math.log10(value) for value in values] if logarithmic else [*values, *(bounds or ())]
    low, high = min(places), max(places)
    if high - low < 1e-12 * max(1.0, abs(high)):
        around = abs(high) * 0.1 or 1.0
        return (low - around if low else -0.04), high + around
    margin = 0.04 * (high - low)
    return low - margin, high + margin


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers within the range."""
    rough = (high - low) / 4
    size = 10 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)
    start = math.ceil(low / step)
    return [number * step for number in range(start, math.floor(high / step) + 1)]


def _line(name: str, points: Points, x: object, y: object, stroke: str, dashes: str) -> str:
    place = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in points)  # type: ignore[operator]
    style = f' stroke-dasharray="{dashes}"' if dashes else ""
    title = f"<title>{escape(name)}</title>"
    if len(points) == 1:
        cx, cy = place.split(",")
        return f'<circle cx="{cx}" cy="{cy}" r="2.5" fill="{stroke}">{title}</circle>'
    return f'<polyline points="{place}" fill="none" stroke="{stroke}" stroke-width="1.5"{style}>{title}</polyline>'


def _shade(incident: Incident, x: object, last: int) -> str:
    begin = x(incident.first_step)  # type: ignore[operator]
    end = x(last if incident.ended is None else incident.ended)  # type: ignore[operator]
    return (
        f'<rect x="{begin:.1f}" y="{TOP}" width="{max(2.0, end - begin):.1f}" height="{HEIGHT - TOP - BOTTOM}" '
        f'fill="{SEVERITY_COLOURS[incident.severity]}" opacity="0.15"><title>{escape(incident.rule)}</title></rect>'
    )


def _legend(names: Sequence[str], limit: bool) -> list[str]:
    """The series' names below the plot, without the part that they share."""
    shown = [(name.rpartition("/")[2] if len(names) > 1 else name, COLOURS[i % len(COLOURS)]) for i, name in
             enumerate(names[:4])]  # fmt: skip
    if len(names) > 4:
        shown.append((f"and {len(names) - 4} more", "#444"))
    if limit:
        shown.append(("limit", LIMIT_COLOUR))
    parts, left = [], float(LEFT)
    for name, stroke in shown:
        parts.append(f'<rect x="{left:.0f}" y="{HEIGHT - 14}" width="10" height="3" fill="{stroke}"/>')
        parts.append(_text(left + 13, HEIGHT - 9, name[:40], "start"))
        left += 24 + 5.6 * len(name[:40])
    return parts


def _text(x: float, y: float, text: str, anchor: str, size: int = 10) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="#444">{escape(text)}</text>'


def _svg(width: int, height: int, parts: Iterable[str]) -> str:
    body = "".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" role="img">{body}</svg>'
    )


def overview(incidents: Sequence[Incident], series: Mapping[str, Points]) -> str:
    """The picture as SVG; empty where there is nothing to draw.

    Args:
        incidents: the run's alerts.
        series: its series, under the names of the catalogue.
    """
    chosen = [chart for chart in _charts(incidents) if series.get(chart.key)][:MOST_PLOTS]
    if not chosen:
        return ""
    steps = [step for chart in chosen for step, _ in series[chart.key]]
    first, last = min(steps), max(steps)
    troubles = by_weight([incident for incident in incidents if incident.severity != "info"])[:MOST_LANES]
    top = time_line_height(troubles) + TITLE_HEIGHT if troubles else 0
    parts = []
    if troubles:
        parts.append(_title(0, 0, "Alerts, from the step where each was first seen"))
        parts.append(_placed(0, TITLE_HEIGHT, time_line(troubles, first, last)))
    for number, chart in enumerate(chosen):
        left, upper = WIDTH * (number % PLOTS_PER_ROW), top + (TITLE_HEIGHT + HEIGHT) * (number // PLOTS_PER_ROW)
        parts.append(_title(left, upper, _name(chart)))
        parts.append(_placed(left, upper + TITLE_HEIGHT, _plot_of(chart, series, troubles)))
    width, height = WIDTH * PLOTS_PER_ROW, top + (TITLE_HEIGHT + HEIGHT) * -(-len(chosen) // PLOTS_PER_ROW)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" role="img"><rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>'
    )


def _charts(incidents: Sequence[Incident]) -> list[Chart]:
    """One for each alert's series, the gravest first, and then what is always of interest."""
    troubles = [incident for incident in by_weight(incidents) if incident.severity != "info"]
    keys = [incident.key for incident in troubles if incident.key is not None]
    return [CHART_OF.get(key, Chart(key, key)) for key in dict.fromkeys([*keys, *ALWAYS_SHOWN])]


def _plot_of(chart: Chart, series: Mapping[str, Points], troubles: Sequence[Incident]) -> str:
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


def _placed(x: int, y: int, picture: str) -> str:
    """A picture within the picture."""
    return picture.replace("<svg ", f'<svg x="{x}" y="{y}" ', 1)
