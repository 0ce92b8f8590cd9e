"""A report on a run that is over, from whatever it left behind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
from rldk_tracking.journal.journal import journals_in
from rldk_tracking.journal.reader import FileLines, read_all
from rldk_tracking.trackers.records import ENDED, Call

Row = tuple[int, dict[str, float]]
PLACES = ("", "_rldk", "rldk")
"""Where below a folder its journals are: those of trainings, and that of a `JsonlTracker`."""
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
        trainer: class name, "custom" where it is not known.
    """

    source: str
    rows: list[Row]
    alerts: list[Alert]
    status: str = ""
    settings: Mapping[str, Any] | None = None
    unknown: tuple[str, ...] = ()
    heatmaps: Mapping[str, Heatmap] = field(default_factory=dict)
    trainer: str = "custom"

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
            trainer=self.trainer,
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
        watched = _watched(str(source), journal)
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


def newest_journal(folder: Path) -> Path | None:
    """The journal of the last training in a folder; None where there is none."""
    for place in PLACES:
        found = journals_in(folder / place)
        if found:
            return found[-1]
    return None


def _journal_in(path: Path) -> Path | None:
    if path.is_dir():
        return newest_journal(path)
    return path if path.suffix == ".jsonl" and path.is_file() else None


def _watched(source: str, journal: Path) -> Past | None:
    """What a journal tells of a run that was judged as it went; None where it holds no health."""
    rows: list[Row] = []
    alerts: list[Alert] = []
    status, trainer = "", "custom"
    settings: Mapping[str, Any] = {}
    heatmaps: dict[str, Heatmap] = {}
    for entry in read_all(FileLines(journal)):
        if entry.record.get("type") == "begin":
            status = ""
            settings = _settings(entry.record) or settings
            trainer = _trainer(entry.record) or trainer
        for call in entry.calls:
            status = _take(call, rows, alerts, heatmaps, status)
    if not any(key.startswith("rldk/health/") for _, row in rows for key in row):
        return None
    crashed = next((alert for alert in reversed(alerts) if alert.rule == "run.crashed"), None)
    if status not in ENDED and crashed is not None and crashed.state == "firing":
        status = "crashed"
    ended = status if status in ENDED else ""
    return Past(source, rows, alerts, ended, settings=settings, heatmaps=heatmaps, trainer=trainer)


def _take(call: Call, rows: list[Row], alerts: list[Alert], heatmaps: dict[str, Heatmap], status: str) -> str:
    """Sort a call in. Returns the run's status after it."""
    method, arguments = call
    if method == "log":
        rows.append((arguments[1], arguments[0]))
    elif method == "log_heatmap":
        heatmaps[arguments[0]] = arguments[1]
    elif method == "alert":
        alerts.append(arguments[0])
    elif method == "status":
        return str(arguments[0])
    return status


def _settings(begin: Mapping[str, Any]) -> Mapping[str, Any]:
    run = begin.get("run")
    config = run.get("config") if isinstance(run, dict) else None
    return config if isinstance(config, dict) else {}


def _trainer(begin: Mapping[str, Any]) -> str:
    run = begin.get("run")
    return str(run.get("trainer") or "") if isinstance(run, dict) else ""
