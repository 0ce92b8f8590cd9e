"""One page on one run, to be read anywhere and mailed: the verdict, the causes, what to try, and the charts.

As HTML with SVG, without scripts and without anything from elsewhere; or as Markdown, with the series drawn as a line
of blocks. Names and texts of the run are escaped, and the HTML forbids the browser to load or run anything. Several
runs stand side by side on one page.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rldk_tracking.charts.heatmap import Heatmap
from rldk_tracking.charts.incidents import Incident, by_weight, incidents_of, verdict, verdict_word
from rldk_tracking.charts.rendering import rendered
from rldk_tracking.charts.series import Points
from rldk_tracking.charts.spec import Section, matching, sections
from rldk_tracking.health.alert import Alert
from rldk_tracking.metrics.keys import lookup

MOST_CAUSES = 3
"""Alerts that stand beside the picture."""
NOTE_CHARACTERS = 8000
"""MLflow cuts a longer note."""
MOST_ALERTS = 20
"""Of a note."""
QUOTED_SERIES = (
    "rldk/health/score",
    "rldk/health/convergence",
    "rldk/reward/mean",
    "rldk/kl/ref_k3",
    "rldk/policy/entropy",
    "rldk/policy/clip_fraction",
    "rldk/value/explained_variance",
    "rldk/length/mean",
    "rldk/length/truncated_fraction",
    "rldk/grad/norm",
    "rldk/update/learning_rate",
    "rldk/preference/accuracy",
    "rldk/checkpoint/score",
    "rldk/throughput/step_seconds",
)
"""Series whose last value the note quotes."""
_BLOCKS = "▁▂▃▄▅▆▇█"


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

    >>> Report("my run", {"rldk/reward/mean": [(1, 0.5), (2, 0.75)]}, status="finished").verdict
    'Finished, step 2. Nothing is known about its health: no rule had data.'
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
        """The alerts as incidents, the gravest first."""
        return by_weight(incidents_of(self.alerts))

    @property
    def causes(self) -> list[Incident]:
        """What to read first: the gravest alerts that are open, or were."""
        return [incident for incident in self.incidents if incident.severity != "info"][:MOST_CAUSES]

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
    def verdict_word(self) -> str:
        """The run in a word."""
        return verdict_word(self.row, self.incidents)

    @property
    def scope(self) -> str:
        """Which steps the page is about."""
        first, last = self.span
        about = f"This page covers steps {first} to {last}."
        if self.resumed_after is None:
            return about
        return f"{about} The run went on from a checkpoint: steps up to {self.resumed_after} are in its series only."

    def sections(self) -> list[Section]:
        """What there is to see."""
        return sections({key for key, points in self.series.items() if points}, self.trainer)

    def overview(self, columns: int = 2) -> str:
        """What broke and when, as SVG; empty where there is nothing to draw. See `figures.overview`."""
        from rldk_tracking.charts.pictures import overview

        return overview(self.incidents, self.series, columns)

    def html(self) -> str:
        """The page as HTML. Raises ImportError where matplotlib is not installed."""
        from rldk_tracking.charts.figures import plot_of
        from rldk_tracking.charts.pictures import heatmap_svg, time_line

        incidents = self.incidents
        return rendered(
            "report.html",
            title=self.title,
            report=self,
            overview=self.overview(),
            narrow_overview=self.overview(columns=1),
            time_line=time_line(incidents, *self.span),
            sections=[
                {
                    "name": section.name,
                    "charts": [(chart, plot_of(chart, self.series, incidents).svg()) for chart in section.charts],
                    "heatmaps": [heatmap_svg(self.heatmaps[key]) for key in section.heatmaps if key in self.heatmaps],
                }
                for section in self.sections()
            ],
        )

    def markdown(self) -> str:
        """The page as Markdown."""
        found = []
        for section in self.sections():
            keys = [key for chart in section.charts for key in chart.series(self.series)]
            found.append((section.name, [(key, [value for _, value in self.series[key]]) for key in keys]))
        return rendered("report.md", report=self, sections=found, blocks=blocks)

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        found = {name: getattr(self, name) for name in self.__dataclass_fields__}
        heatmaps = {key: heatmap.as_dict() for key, heatmap in self.heatmaps.items()}
        return found | {"alerts": [alert.as_dict() for alert in self.alerts], "heatmaps": heatmaps}

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Report:
        """From what `as_dict` made, also by way of JSON."""
        alerts = [Alert(**alert) for alert in data["alerts"]]
        heatmaps = {key: Heatmap.of(heatmap) for key, heatmap in data["heatmaps"].items()}
        return cls(**{**data, "alerts": alerts, "heatmaps": heatmaps})


def comparison(reports: Sequence[Report]) -> str:
    """Several runs side by side, as HTML: verdicts, settings that differ, and the same charts with a line for each run.

    Raises ImportError where matplotlib is not installed.
    """
    from rldk_tracking.charts.figures import line_colour, runs_svg
    from rldk_tracking.charts.pictures import time_line

    titles = [report.title for report in reports]
    names = [f"{title} ({number})" if titles.count(title) > 1 else title for number, title in enumerate(titles, 1)]
    keys = {key for report in reports for key, points in report.series.items() if points}
    trainers = {report.trainer for report in reports}
    drawn = []
    for section in sections(keys, trainers.pop() if len(trainers) == 1 else None):
        charts = []
        for chart in section.charts:
            for key in matching(chart.key, keys):
                lines = [(name, report.series.get(key, [])) for name, report in zip(names, reports, strict=True)]
                charts.append((chart.title, key, runs_svg(chart, lines)))
        drawn.append({"name": section.name, "charts": charts})
    runs = [
        {
            "report": dataclasses.replace(report, title=name),
            "colour": line_colour(number),
            "time_line": time_line(report.causes, *report.span, narrow=True),
        }
        for number, (name, report) in enumerate(zip(names, reports, strict=True))
    ]
    return rendered(
        "comparison.html", title=" and ".join(names), runs=runs, settings=differing(reports), sections=drawn
    )


def differing(reports: Sequence[Report]) -> list[tuple[str, list[str]]]:
    """Setting to its value in each run; empty where a run has none."""
    names = sorted({name for report in reports for name in report.settings})
    rows = [(name, [str(report.settings.get(name, "")) for report in reports]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def note(
    status: str,
    step: int | None,
    row: Mapping[str, float],
    incidents: Sequence[Incident],
    links: Mapping[str, str],
    picture: str = "",
    coverage: str = "",
) -> str:
    """A run's health on one page, for the note of its page: verdict, links, alerts, last values.

    At most `NOTE_CHARACTERS` characters.

    Args:
        status, step, row, incidents: see `verdict`.
        links: text to address, made here and not by strangers.
        picture: address of the picture of what broke; empty for none.
        coverage: a sentence on how much of the trainer is read; empty where all of it is.
    """
    values = []
    for key in QUOTED_SERIES:
        known = lookup(key)
        if key in row and known is not None:
            values.append((key, row[key], "" if known.unit == "1" else known.unit, known.meaning))
    sorted_ = by_weight(incidents)
    for count in range(min(MOST_ALERTS, len(sorted_)), -1, -1):
        text = rendered(
            "note.md",
            verdict=verdict(status, step, row, incidents),
            gravest=next((e for e in sorted_ if e.ended is None and e.severity != "info"), None),
            links=links,
            picture=picture,
            coverage=coverage,
            shown=sorted_[:count],
            more=len(sorted_) - count,
            values=values,
        )
        if len(text) <= NOTE_CHARACTERS:
            break
    return text[:NOTE_CHARACTERS]


def blocks(values: Sequence[float], width: int = 32) -> str:
    """A line of at most `width` blocks, each the mean of its part of the values.

    >>> blocks([0.0, 1.0, 2.0, 7.0])
    '▁▂▃█'
    """
    count = min(width, len(values))
    means = []
    for number in range(count):
        part = values[number * len(values) // count : (number + 1) * len(values) // count]
        means.append(math.fsum(part) / len(part))
    low, high = min(means), max(means)
    if high <= low:
        return _BLOCKS[3] * count
    return "".join(_BLOCKS[min(7, int(8 * (mean - low) / (high - low)))] for mean in means)
