"""A report on a run that is over, from whatever it left behind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rldk_tracking.charts.heatmap import Heatmap
from rldk_tracking.charts.report import Report
from rldk_tracking.charts.series import Points, thinned
from rldk_tracking.health.alert import Alert
from rldk_tracking.health.engine import Engine
from rldk_tracking.health.presets import rules_for
from rldk_tracking.health.watched import row_rules
from rldk_tracking.history.reading import read
from rldk_tracking.trackers.journal import decode
from rldk_tracking.trackers.journal import read as read_journal

Row = tuple[int, dict[str, float]]
PLACES = ("run.jsonl", "rldk/run.jsonl")
"""Where a folder keeps the journal of a `JsonlTracker`."""
MOST = 2000
"""Points of a series that a report draws."""


@dataclass(frozen=True)
class Past:
    """A run that is over.

    Attributes:
        rows: step and values of each row, as they came.
        alerts: every transition: those of the run where it was watched, else those that the rules find now.
        status: "finished", "stopped" or "crashed" where the run says so, else empty.
        settings: what is known of its configuration.
        unknown: rules whose data never came, where the rules were asked now.
        heatmaps: the latest of each key, where the run kept them.
    """

    source: str
    rows: list[Row]
    alerts: list[Alert]
    status: str = ""
    settings: Mapping[str, Any] | None = None
    unknown: tuple[str, ...] = ()
    heatmaps: Mapping[str, Heatmap] = field(default_factory=dict)

    def report(self, title: str | None = None) -> Report:
        """The report, under the source's name or another."""
        return Report(
            title=title or Path(self.source).name or self.source,
            series={key: thinned(points, MOST) for key, points in series_of(self.rows).items()},
            alerts=self.alerts,
            status=self.status,
            settings=self.settings or {},
            unknown=self.unknown,
            heatmaps=self.heatmaps,
        )


def load(source: str | Path, rules: str = "safe", overrides: Mapping[str, Mapping[str, Any]] | None = None) -> Past:
    """Read a run. A journal of a watched run is taken as it is; any other source is judged now.

    Args:
        source: see `rldk_tracking.history.reading`; a journal, or a folder with one, first of all.
        rules, overrides: see `rldk_tracking.health.presets.rules_for`.

    Raises:
        UnreadableSourceError: there is nothing to read.
        ValueError: unknown rules or fields.
    """
    journal = _journal_in(Path(source)) if ":" not in str(source) else None
    if journal is not None:
        watched = _watched(str(source), read_journal(journal))
        if watched is not None:
            return watched
    history = read(source)
    engine = Engine(row_rules(rules_for(rules, overrides)), history.settings)
    rows: list[Row] = []
    alerts: list[Alert] = []
    for entry in history.entries:
        alerts += engine.update(entry.step, entry.row)
        judged = {"rldk/alerts/firing": float(len(engine.firing))} | engine.scores()
        rows.append((entry.step, judged | entry.row))
    return Past(history.source, rows, alerts, settings=history.settings, unknown=tuple(engine.unknown()))


def series_of(rows: Iterable[Row]) -> dict[str, Points]:
    """Key to its points."""
    found: dict[str, Points] = {}
    for step, row in rows:
        for key, value in row.items():
            found.setdefault(key, []).append((step, value))
    return found


def _journal_in(path: Path) -> Path | None:
    if path.is_dir():
        return next((path / place for place in PLACES if (path / place).is_file()), None)
    return path if path.suffix == ".jsonl" and path.is_file() else None


def _watched(source: str, records: Iterator[dict[str, Any]]) -> Past | None:
    """What a journal tells of a run that was judged as it went; None where it holds no health."""
    rows: list[Row] = []
    alerts: list[Alert] = []
    status = ""
    heatmaps: dict[str, Heatmap] = {}
    for record in records:
        try:
            method, arguments = decode(record)
        except (KeyError, TypeError, ValueError):
            continue
        if method == "log":
            values, step = arguments
            rows.append((int(step), {str(key): float(value) for key, value in values.items()}))
        elif method == "log_heatmap":
            heatmaps[str(arguments[0])] = arguments[1]
        elif method == "alert":
            alerts.append(arguments[0])
        elif method == "status":
            status = str(arguments[0])
    if not any(key.startswith("rldk/health/") for _, row in rows for key in row):
        return None
    ended = status if status in ("finished", "stopped", "crashed") else ""
    return Past(source, rows, alerts, ended, heatmaps=heatmaps)
