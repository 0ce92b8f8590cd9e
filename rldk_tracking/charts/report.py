"""One page on one run, to be read anywhere and mailed: the verdict, the alerts on a time line, the charts, what to try.

As HTML with SVG, without scripts and without anything from elsewhere; or as Markdown, with the series drawn as a line
of blocks. Names and texts of the run are escaped, and the HTML forbids the browser to load or run anything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from rldk_tracking.charts.figures import SEVERITY_COLOURS, line_chart, overview, time_line
from rldk_tracking.charts.heatmap import Heatmap
from rldk_tracking.charts.incidents import Incident, by_weight, incidents_of, verdict, verdict_word
from rldk_tracking.charts.markdown import escaped, table
from rldk_tracking.charts.series import Points
from rldk_tracking.charts.spec import Chart, Section, sections
from rldk_tracking.health.alert import Alert
from rldk_tracking.keys import lookup

_BLOCKS = "▁▂▃▄▅▆▇█"
_STYLE = """
body { font: 14px/1.45 sans-serif; color: #222; max-width: 1240px; margin: 2em auto; padding: 0 1em }
h1 { font-size: 22px } h2 { font-size: 17px; margin-top: 2em; border-bottom: 1px solid #ddd }
.verdict { padding: .7em 1em; border-left: 6px solid; background: #f6f6f6; font-size: 16px }
table { border-collapse: collapse } td, th { text-align: left; vertical-align: top; padding: 4px 10px 4px 0 }
td + td { overflow-wrap: anywhere } summary { font-size: 17px; font-weight: bold; margin-top: 2em }
tr + tr td { border-top: 1px solid #eee }
.charts { display: flex; flex-wrap: wrap; gap: 14px } figure { margin: 0 } figcaption { font-weight: bold }
svg { max-width: 100%; height: auto } .small { color: #666; font-size: 12px }
"""
_VERDICT_COLOURS = {"healthy": "#2ca02c", "unknown": "#7f7f7f"}
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class Report:
    """What is known of a run.

    Attributes:
        title: its name.
        series: key to (step, value) points.
        alerts: every transition, in order.
        status: "running", "finished", "stopped" or "crashed"; empty where it is not known.
        trainer: class name, "custom" where there is none.
        settings: the run's settings that alerts may quote.
        unknown: ids of rules whose data never came, where that is known.
        heatmaps: key to heat-map, see `rldk_tracking.charts.heatmap`.
        resumed_after: the last step of an earlier process whose rows are not here, where there was one.
    """

    title: str
    series: Mapping[str, Points]
    alerts: Sequence[Alert] = ()
    status: str = ""
    trainer: str = "custom"
    settings: Mapping[str, Any] = field(default_factory=dict)
    unknown: Sequence[str] = ()
    heatmaps: Mapping[str, Heatmap] = field(default_factory=dict)
    resumed_after: int | None = None

    @property
    def incidents(self) -> list[Incident]:
        """The alerts as incidents."""
        return incidents_of(self.alerts)

    @property
    def row(self) -> dict[str, float]:
        """The last value of each series."""
        return {key: points[-1][1] for key, points in self.series.items() if points}

    @property
    def span(self) -> tuple[int, int]:
        """First and last step."""
        steps = [step for points in self.series.values() for step, _ in (*points[:1], *points[-1:])]
        return (min(steps), max(steps)) if steps else (0, 0)

    @property
    def verdict(self) -> str:
        """The run in a sentence."""
        return verdict(self.status, self.span[1], self.row, self.incidents)

    @property
    def scope(self) -> str:
        """Which steps the page is about."""
        first, last = self.span
        about = f"This page covers steps {first} to {last}."
        if self.resumed_after is None:
            return about
        return f"{about} The run went on from a checkpoint: steps up to {self.resumed_after} are in its series only."

    def html(self) -> str:
        """The page as HTML."""
        incidents = self.incidents
        word = verdict_word(self.row, incidents)
        hue = _VERDICT_COLOURS.get(word) or SEVERITY_COLOURS[word]
        parts = [
            "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
            "<meta name='viewport' content='width=device-width'>",
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            f"<title>{escape(self.title)}: RL health</title><style>{_STYLE}</style></head><body>",
            f"<h1>{escape(self.title)}</h1>",
            f'<p class="verdict" style="border-color: {hue}">{escape(self.verdict)}</p>',
            f"<p class='small'>{escape(self.scope)}</p>",
        ]
        if incidents:
            are_troubles = any(incident.severity != "info" for incident in incidents)
            picture = overview(incidents, self.series) if are_troubles else ""
            picture = picture or time_line(incidents, *self.span)
            parts += ["<h2>Alerts</h2>", picture, _alert_table(by_weight(incidents))]
        for section in self.sections():
            parts.append(f"<h2>{escape(section.name)}</h2><div class='charts'>")
            parts += [self._figure(chart, incidents) for chart in section.charts]
            parts += [
                f"<figure>{self.heatmaps[key].svg()}</figure>" for key in section.heatmaps if key in self.heatmaps
            ]
            parts.append("</div>")
        parts += [self._settings(), self._not_judged(), "</body></html>"]
        return "".join(parts)

    def markdown(self) -> str:
        """The page as Markdown."""
        incidents = self.incidents
        parts = [f"# {escaped(self.title)}", f"**{escaped(self.verdict)}**", escaped(self.scope)]
        if incidents:
            columns = ("alert", "severity", "first seen", "over", "what", "what to try")
            parts += ["## Alerts", table(columns, [_markdown_row(incident) for incident in by_weight(incidents)])]
        for section in self.sections():
            names = [key for chart in section.charts for key in chart.series(self.series)]
            parts += [f"## {section.name}", table(_SERIES_COLUMNS, [self._series_row(key) for key in names])]
        if self.settings:
            rows = [(escaped(name), escaped(value)) for name, value in sorted(self.settings.items())]
            parts += ["## Settings", table(("name", "value"), rows)]
        if self.unknown:
            parts.append("Not judged, because their data never came: " + ", ".join(map(escaped, self.unknown)) + ".")
        return "\n\n".join(parts) + "\n"

    def sections(self) -> list[Section]:
        """What there is to see."""
        return sections({key for key, points in self.series.items() if points}, self.trainer)

    def _figure(self, chart: Chart, incidents: Sequence[Incident]) -> str:
        names = chart.series(self.series)
        limit = self.series.get(chart.limit) if chart.limit is not None else None
        drawing = line_chart(
            [(name, self.series[name]) for name in names if name != chart.limit],
            limit=limit,
            bounds=chart.bounds,
            logarithmic=chart.logarithmic,
            marked=[incident for incident in incidents if incident.key in names and incident.severity != "info"],
        )
        known = lookup(names[0])
        unit = "" if known is None or known.unit == "1" else f" ({known.unit})"
        return f"<figure><figcaption>{escape(chart.title + unit)}</figcaption>{drawing}</figure>"

    def _series_row(self, key: str) -> tuple[str, ...]:
        values = [value for _, value in self.series[key]]
        numbers = (values[0], values[-1], min(values), max(values))
        return (escaped(key), *(f"{number:.4g}" for number in numbers), blocks(values))

    def _settings(self) -> str:
        if not self.settings:
            return ""
        rows = "".join(
            f"<tr><td>{escape(str(name))}</td><td>{escape(str(value))}</td></tr>"
            for name, value in sorted(self.settings.items())
        )
        return f"<details><summary>Settings</summary><table>{rows}</table></details>"

    def _not_judged(self) -> str:
        if not self.unknown:
            return ""
        return f"<p class='small'>Not judged, because their data never came: {escape(', '.join(self.unknown))}.</p>"


_SERIES_COLUMNS = ("series", "first", "last", "lowest", "highest", "over the run")


def blocks(values: Sequence[float], width: int = 32) -> str:
    """A line of at most `width` blocks, each the mean of its part of the values."""
    count = min(width, len(values))
    means = []
    for number in range(count):
        part = values[number * len(values) // count : (number + 1) * len(values) // count]
        means.append(math.fsum(part) / len(part))
    low, high = min(means), max(means)
    if high <= low:
        return _BLOCKS[3] * count
    return "".join(_BLOCKS[min(7, int(8 * (mean - low) / (high - low)))] for mean in means)


def _alert_table(incidents: Sequence[Incident]) -> str:
    heads = ("alert", "severity", "first seen", "over", "what", "what to try")
    rows = [
        (
            f"<td>{escape(incident.rule)}</td>"
            f'<td style="color: {SEVERITY_COLOURS[incident.severity]}">{incident.severity}</td>'
            f"<td>{incident.first_step}</td><td>{'' if incident.ended is None else incident.ended}</td>"
            f"<td>{escape(incident.message)}</td><td>{escape(incident.advice)}</td>"
        )
        for incident in incidents
    ]
    head = "".join(f"<th>{name}</th>" for name in heads)
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


def _markdown_row(incident: Incident) -> tuple[str, ...]:
    over = "" if incident.ended is None else str(incident.ended)
    texts = (escaped(incident.message), escaped(incident.advice))
    return (escaped(incident.rule, 80), incident.severity, str(incident.first_step), over, *texts)
