"""A report on a run that is over, from whatever it left behind."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rldk_tracking.charts.heatmap import Heatmap
from rldk_tracking.charts.report import Report
from rldk_tracking.charts.series import Points, extremes
from rldk_tracking.health.alert import Alert, add_alert
from rldk_tracking.health.engine import Engine
from rldk_tracking.health.presets import rules_for
from rldk_tracking.health.rule import Rule
from rldk_tracking.health.watched import row_rules
from rldk_tracking.history.reading import (
    Candidate,
    first_readable,
    journals_of,
    read,
    read_candidate,
    skipped_lines,
    store_of,
)
from rldk_tracking.history.run_history import JUDGED, History
from rldk_tracking.journal.reader import FileLines, read_all
from rldk_tracking.sources.own_names import OwnNames
from rldk_tracking.trackers.records import ENDED, Call, run_info

Row = tuple[int, dict[str, float]]
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
        notes: sentences on the reading, see `rldk_tracking.history.run_history.History`.
        name: the run's, where it says one.
    """

    source: str
    rows: list[Row]
    alerts: list[Alert]
    status: str = ""
    settings: Mapping[str, Any] | None = None
    unknown: tuple[str, ...] = ()
    heatmaps: Mapping[str, Heatmap] = field(default_factory=dict)
    trainer: str = "custom"
    notes: tuple[str, ...] = ()
    name: str = ""

    def report(self, title: str | None = None) -> Report:
        """The report, under the run's name or another; where it has none, the source's."""
        return Report(
            title=title or self.name or Path(self.source).name or self.source,
            series={key: extremes(points, MOST) for key, points in series_of(self.rows).items()},
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
    every_rule = rules_for(rules, overrides)
    own = OwnNames((name for rule in every_rule for name in rule.own_names), is_over=True)
    if store_of(source) is not None:
        return _judged(read(source, own=own), every_rule)

    def reader(candidate: Candidate) -> Past:
        watched = _watched(str(source), candidate.path) if _may_be_journal(candidate) else None
        return watched or _judged(read_candidate(candidate, own=own), every_rule)

    past, notes = first_readable(source, reader)
    return replace(past, source=str(source), notes=(*notes, *past.notes))


def _judged(history: History, rules: Iterable[Rule]) -> Past:
    engine = Engine(row_rules(rules), history.settings)
    rows: list[Row] = []
    alerts: list[Alert] = []
    for entry in history.entries:
        for alert in engine.update(entry.step, entry.row):
            add_alert(alerts, alert)
        rows.append((entry.step, engine.coverage() | engine.scores() | entry.row))
    unknown = tuple(engine.unknown())
    return Past(history.source, rows, alerts, settings=history.settings, unknown=unknown, notes=history.notes)


def series_of(rows: Iterable[Row]) -> dict[str, Points]:
    """Key to its points."""
    found: dict[str, Points] = {}
    for step, row in rows:
        for key, value in row.items():
            found.setdefault(key, []).append((step, value))
    return found


def newest_journal(folder: Path) -> Path | None:
    """The journal of the last training in a folder; None where there is none."""
    return next(iter(journals_of(folder)), None)


def _may_be_journal(candidate: Candidate) -> bool:
    return candidate.kind == "file" and candidate.path.suffix == ".jsonl" and candidate.path.is_file()


def _watched(source: str, journal: Path) -> Past | None:
    """What a journal tells of a run that was judged as it went; None where it holds no health."""
    rows: list[Row] = []
    alerts: list[Alert] = []
    status, trainer, name = "", "custom", ""
    settings: Mapping[str, Any] = {}
    heatmaps: dict[str, Heatmap] = {}
    skipped = 0
    for entry in read_all(FileLines(journal)):
        skipped += entry.problem is not None
        if entry.record.get("type") == "begin":
            status = ""
            info = run_info(entry.record)
            settings, trainer = info.config or settings, info.trainer
            name = info.name or name
        for call in entry.calls:
            status = _take(call, rows, alerts, heatmaps, status)
    if not any(key.startswith(JUDGED) for _, row in rows for key in row):
        return None
    crashed = next((alert for alert in reversed(alerts) if alert.rule == "run.crashed"), None)
    if status not in ENDED and crashed is not None and crashed.state == "firing":
        status = "crashed"
    ended = status if status in ENDED else ""
    notes = skipped_lines(skipped)
    return Past(source, rows, alerts, ended, settings, heatmaps=heatmaps, trainer=trainer, notes=notes, name=name)


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


def columns_of(rows: Sequence[Row]) -> list[str]:
    """The series, in alphabetical order."""
    return sorted({key for _, row in rows for key in row})


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """A `step` column and the series; numbers are written so that they read back as they were."""
    columns = columns_of(rows)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["step", *columns])
        for step, row in rows:
            writer.writerow([step, *(repr(row[key]) if key in row else "" for key in columns)])


def write_parquet(path: Path, rows: Sequence[Row]) -> None:
    """The same as Parquet: `step` as int64, the series as float64 with nulls.

    Raises:
        ImportError: pyarrow is not installed.
    """
    try:
        import pyarrow  # type: ignore[import-untyped,unused-ignore]
        from pyarrow import parquet  # type: ignore[import-untyped,unused-ignore]
    except ImportError as error:
        raise ImportError("Parquet needs pyarrow: pip install pyarrow") from error
    columns = {"step": pyarrow.array([step for step, _ in rows], pyarrow.int64())}
    for key in columns_of(rows):
        columns[key] = pyarrow.array([row.get(key) for _, row in rows], pyarrow.float64())
    parquet.write_table(pyarrow.table(columns), path)
