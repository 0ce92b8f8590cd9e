"""Pictures as SVG, and line charts.

This module and `pictures` import matplotlib, and are imported where something is drawn, which is never in a training:
in the courier, in a command, or in the process of `rldk_tracking.charts.drawing`. Colours are Okabe and Ito's.
"""

from __future__ import annotations

import io
import itertools
import math
import re
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from markupsafe import Markup

from rldk_tracking.charts.incidents import Incident, by_weight
from rldk_tracking.charts.series import Points, extremes
from rldk_tracking.charts.spec import Chart
from rldk_tracking.messages.arguments import printable
from rldk_tracking.messages.packages import install_line
from rldk_tracking.metrics.keys import lookup

try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
except ImportError as error:
    raise ImportError(f"Pictures need matplotlib: {install_line('report')}") from error

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#56B4E9", "#CC79A7", "#7f7f7f")
SEVERITY_COLOURS = {"info": "#7f7f7f", "warning": "#E69F00", "critical": "#D55E00"}
LIMIT_COLOUR = "#D55E00"
TEXT, LINES = "#444444", "#888888"
WIDTH, HEIGHT = 380, 200
LEFT, RIGHT, BOTTOM = 62, 12, 36
LEGEND_HEIGHT = TITLE_HEIGHT = 20
MOST_LINES = 4
MOST_POINTS = 400
LARGEST = 1e150
"""Larger values are not drawn: the limits of the axis would overflow."""
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rldk",
    "text.parse_math": False,
    "path.simplify": False,
    "font.size": 10,
    "text.color": TEXT,
    "axes.labelcolor": TEXT,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "axes.edgecolor": LINES,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "grid.color": LINES,
    "grid.alpha": 0.25,
    "legend.frameon": False,
}
_ONE_AT_A_TIME = threading.Lock()
"""matplotlib's settings belong to the whole process."""


@dataclass(frozen=True)
class Plot:
    """One plot over the trainer's steps.

    Attributes:
        lines: name and points of each series; the first few are drawn.
        title: what it shows.
        unit: of the y-axis.
        limit: a limit that may move, drawn dashed.
        thresholds: limits of rules, drawn dashed over the whole width.
        bounds: that the y-axis has at least; by default the data's own.
        logarithmic: a logarithmic y-axis, where all values are above 0.
        marked: incidents to shade, from where each was first seen to its end.
        most_lines: so many of the series are drawn.
    """

    lines: Sequence[tuple[str, Points]]
    title: str = ""
    unit: str = ""
    limit: Points = field(default_factory=list)
    thresholds: Sequence[float] = ()
    bounds: tuple[float, float] | None = None
    logarithmic: bool = False
    marked: Sequence[Incident] = ()
    most_lines: int = MOST_LINES

    def svg(self) -> str:
        """The picture; empty where there is nothing to draw."""
        if not any(drawn(points) for _, points in self.lines):
            return ""
        title = self.title or ", ".join(name for name, _ in self.lines)
        return svg(WIDTH, HEIGHT, title, lambda figure: self.draw(figure, 0, 0))

    def draw(self, figure: Figure, left: float, top: float, width: float = WIDTH, height: float = HEIGHT) -> Axes:
        """Draw it into a part of a figure, in pixels from its upper left corner."""
        lines = [(name, drawn(points)) for name, points in self.lines]
        limit = drawn(self.limit)
        lines = [(name, points) for name, points in lines if points]
        everything = [point for _, points in lines for point in points] + limit
        names = _short([name for name, _ in lines][: self.most_lines])
        has_legend = len(lines) > 1 or bool(limit or self.thresholds)
        upper = top + LEGEND_HEIGHT if has_legend else top + 8
        axes = axes_at(figure, left + LEFT, upper, width - LEFT - RIGHT, top + height - BOTTOM - upper)
        first, last = min(step for step, _ in everything), max(step for step, _ in everything)
        last = max(last, first + 1)
        margin = 0.01 * (last - first)
        axes.set_xlim(first - margin, last + margin)
        for number, name in enumerate(names):
            steps, values = zip(*lines[number][1], strict=True)
            style = ("-", ":", "-.")[number // len(COLOURS) % 3]
            dot = "o" if len(steps) == 1 else None
            axes.plot(
                steps,
                values,
                style,
                color=line_colour(number),
                label=name,
                marker=dot,
                ms=4,
                gid=printable(lines[number][0]),
            )
        if limit:
            axes.plot(
                *zip(*limit, strict=True), color=LIMIT_COLOUR, linestyle="--", linewidth=1.2, label="limit", gid="limit"
            )
        for number, threshold in enumerate(self.thresholds):
            label = "_" if limit or number else "limit"
            axes.axhline(threshold, color=LIMIT_COLOUR, linestyle="--", linewidth=1.2, label=label, gid="limit")
        self._scale(axes, [*(value for _, value in everything), *self.thresholds])
        for incident in self.marked:
            colour = SEVERITY_COLOURS[incident.severity]
            end = last + margin if incident.ended is None else incident.ended
            axes.axvspan(
                incident.first_step,
                max(end, incident.first_step + margin),
                color=colour,
                alpha=0.16,
                lw=0,
                gid=printable(f"shade {incident.rule}"),
            )
            axes.axvline(incident.first_step, color=colour, linewidth=1)
        axes.set_xlabel("step", labelpad=2)
        axes.set_ylabel(self.unit, labelpad=3)
        if has_legend:
            if len(lines) > len(names):
                axes.plot([], [], linestyle="none", label=f"and {len(lines) - len(names)} more")
            axes.legend(
                loc="lower left", bbox_to_anchor=(-0.01, 0.98), ncols=MOST_LINES + 2, fontsize=9, borderpad=0.2,
                handlelength=1.2, handletextpad=0.4, columnspacing=0.9,
            )  # fmt: skip
        return axes

    def _scale(self, axes: Axes, values: Sequence[float]) -> None:
        if self.logarithmic and min(values) > 0:
            axes.set_yscale("log")
            low, high = math.log10(min(values)), math.log10(max(values))
            margin = 0.05 * (high - low) or 0.2
            axes.set_ylim(10 ** (low - margin), 10 ** (high + margin))
            axes.yaxis.set_major_locator(LogLocator(numticks=5) if high - low > 1 else MaxNLocator(4))
            axes.yaxis.set_minor_locator(NullLocator())
        else:
            values = [*values, *(self.bounds or ())]
            low, high = min(values), max(values)
            if high - low < 1e-12 * max(1.0, abs(high)):  # all the same
                low, high = (low - 0.5 * abs(low), high + 0.5 * abs(high)) if high else (0.0, 1.0)
            margin = 0.05 * (high - low)
            axes.set_ylim(low - margin, high + margin)
            axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))


def drawn(points: Points) -> Points:
    """Those of the points that a picture shows: finite, and a bounded number, with every peak."""
    return extremes([(step, value) for step, value in points if abs(value) < LARGEST], MOST_POINTS)


def line_chart(lines: Sequence[tuple[str, Points]], **about: Any) -> str:
    """One plot as SVG; empty where there is nothing to draw.

    Args:
        lines: name and points of each series.
        about: the other attributes of `Plot`.

    >>> line_chart([("reward", [(1, 0.5), (2, 0.75)])], unit="reward")[:4]
    '<svg'
    """
    return Plot(lines, **about).svg()


def runs_svg(chart: Chart, lines: Sequence[tuple[str, Points]]) -> str:
    """A chart of the specification with a line for each run."""
    plot = Plot(lines, chart.title, _unit(chart.key), bounds=chart.bounds, logarithmic=chart.logarithmic)
    return replace(plot, most_lines=len(lines)).svg()


def line_colour(number: int) -> str:
    """That of a line, by its place among the lines."""
    return COLOURS[number % len(COLOURS)]


def plot_of(chart: Chart, series: Mapping[str, Points], incidents: Sequence[Incident]) -> Plot:
    """A chart of the specification for a run.

    The incidents of the chart's own series are shaded, and the gravest one in every chart, so that one sees what else
    changed with it. A rule's limit is drawn where the number that it judged is one of the chart's.
    """
    names = [key for key in chart.series(series) or [chart.key] if key != chart.limit]
    limit = [] if chart.limit is None else series.get(chart.limit, [])
    shown = [incident for incident in by_weight(incidents) if incident.severity != "info"]
    return Plot(
        lines=[(key, series.get(key, [])) for key in names],
        title=chart.title,
        unit=_unit(chart.key),
        limit=limit,
        thresholds=[] if limit else sorted({each for e in shown for each in _threshold(e, names, series)}),
        bounds=chart.bounds,
        logarithmic=chart.logarithmic,
        marked=[incident for incident in shown if incident.key in names or incident is shown[0]],
    )


def _unit(key: str) -> str:
    known = lookup(key)
    return "" if known is None or known.unit == "1" else known.unit


def _threshold(incident: Incident, names: Sequence[str], series: Mapping[str, Points]) -> list[float]:
    """The incident's limit; none where what it judged is in another unit than the series, such as a ratio."""
    key, value, threshold = incident.key, incident.value, incident.threshold
    if key not in names or key is None or value is None or threshold is None or not math.isfinite(threshold):
        return []
    is_charted = any(math.isclose(value, charted, rel_tol=1e-6) for _, charted in series.get(key, []))
    return [threshold] if is_charted else []


def svg(width: float, height: float, title: str, draw: Callable[[Figure], Any]) -> Markup:
    """What is drawn into a figure of so many pixels, as an SVG element that an HTML page can hold.

    Whatever a person has configured matplotlib to does not count, and is as it was afterwards.
    """
    target = io.StringIO()
    with _ONE_AT_A_TIME, matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name in a script that the font lacks is still text in the picture
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        figure = Figure(figsize=(width / 72, height / 72), dpi=72)
        figure.patch.set_gid("paper")
        FigureCanvasSVG(figure)
        draw(figure)
        about = {"Date": None, "Creator": None, "Format": None, "Type": None, "Title": printable(title)}
        figure.savefig(target, format="svg", metadata=about)
    text = target.getvalue()
    # In pixels, not in points, and without the declarations that belong to a file of its own.
    size = f'width="{width:g}" height="{height:g}" role="img"'
    text = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', size, text[text.index("<svg") :], count=1)
    return Markup(text)  # noqa: S704 - matplotlib has escaped every name in it


def axes_at(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """New axes at a place in pixels from the upper left corner of the figure."""
    whole_width, whole_height = figure.get_size_inches() * 72
    box = (left / whole_width, 1 - (top + height) / whole_height, width / whole_width, height / whole_height)
    axes = figure.add_axes(box)
    axes.grid(axis="y")
    axes.tick_params(length=3, width=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    return axes


def title_at(figure: Figure, left: float, top: float, text: str) -> None:
    """Write a title at a place in pixels from the upper left corner of the figure."""
    width, height = figure.get_size_inches() * 72
    figure.text(left / width, 1 - (top + 15) / height, printable(text), fontsize=12, fontweight="bold", color="#222222")


def _short(names: Sequence[str]) -> list[str]:
    """The series' names without the part that they share."""
    folders = [name.split("/")[:-1] for name in names]
    shared = itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*folders, strict=False))
    start = sum(len(parts[0]) + 1 for parts in shared)
    most = 40 // len(names) if names else 40
    # A label that begins with an underscore is left out of a legend.
    return [cut(name[start:].lstrip("_") or name, max(14, most), keep_end=True) for name in names]


def cut(text: str, most: int, keep_end: bool = False) -> str:
    """So many characters of a text of unknown origin, at most."""
    text = printable(text)
    if len(text) <= most:
        return text
    return f"…{text[1 - most :]}" if keep_end else f"{text[: most - 1]}…"
