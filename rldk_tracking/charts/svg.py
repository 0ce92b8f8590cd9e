"""Line charts and a time line of alerts as SVG, without scripts, fonts or files from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

from rldk_tracking.charts.episodes import Episode
from rldk_tracking.charts.series import Points

WIDTH, HEIGHT = 380, 190
LEFT, RIGHT, TOP, BOTTOM = 54, 8, 8, 44
COLOURS = ("#1f77b4", "#9467bd", "#17becf", "#8c564b", "#7f7f7f", "#bcbd22")
LIMIT_COLOUR = "#d62728"
SEVERITY_COLOURS = {"info": "#7f7f7f", "warning": "#ff7f0e", "critical": "#d62728"}
LANE = 22


def line_chart(
    lines: Sequence[tuple[str, Points]],
    *,
    limit: Points | None = None,
    bounds: tuple[float, float] | None = None,
    logarithmic: bool = False,
    marked: Iterable[Episode] = (),
) -> str:
    """One plot over the trainer's steps.

    Args:
        lines: name and points of each series.
        limit: drawn dashed.
        bounds: of the y-axis; by default the data's own.
        logarithmic: a logarithmic y-axis, where all values are above 0.
        marked: episodes to shade, from where each was first seen to its end.
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

    parts = [_shade(episode, x, last) for episode in marked]
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


def time_line_height(told: Sequence[Episode]) -> int:
    """Of the picture that `time_line` makes."""
    return LANE * len(told) + 26


def time_line(told: Sequence[Episode], first: int, last: int) -> str:
    """One lane for each episode, from where it was first seen to its end, over the steps of the run."""
    if not told:
        return ""
    last = max(last, first + 1)
    width, left = 2 * WIDTH, 190
    height = time_line_height(told)

    def x(step: float) -> float:
        return left + (width - left - 20) * (min(max(step, first), last) - first) / (last - first)

    parts = []
    for number, episode in enumerate(told):
        top = 4 + LANE * number
        end = last if episode.ended is None else episode.ended
        bar = max(3.0, x(end) - x(episode.first_step))
        fill = SEVERITY_COLOURS[episode.severity]
        until = "still open" if episode.ended is None else f"over at step {episode.ended}"
        about = escape(f"{episode.rule}: first seen at step {episode.first_step}, {until}")
        parts.append(_text(left - 8, top + 12, episode.rule[:28], "end", 12))
        parts.append(
            f'<rect x="{x(episode.first_step):.1f}" y="{top + 2}" width="{bar:.1f}" height="{LANE - 8}" rx="2" '
            f'fill="{fill}"><title>{about}</title></rect>'
        )
        parts.append(_beside(x(episode.first_step), x(episode.first_step) + bar, left, top + 12, episode.first_step))
    axis = LANE * len(told) + 6
    parts.append(f'<line x1="{left}" x2="{width - 20}" y1="{axis}" y2="{axis}" stroke="#888"/>')
    for tick in (first, (first + last) // 2, last):
        parts.append(_text(x(tick), axis + 14, str(tick), "middle"))
    return _svg(width, height, parts)


def _beside(begin: float, end: float, left: float, y: float, step: int) -> str:
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


def _shade(episode: Episode, x: object, last: int) -> str:
    begin = x(episode.first_step)  # type: ignore[operator]
    end = x(last if episode.ended is None else episode.ended)  # type: ignore[operator]
    return (
        f'<rect x="{begin:.1f}" y="{TOP}" width="{max(2.0, end - begin):.1f}" height="{HEIGHT - TOP - BOTTOM}" '
        f'fill="{SEVERITY_COLOURS[episode.severity]}" opacity="0.15"><title>{escape(episode.rule)}</title></rect>'
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
