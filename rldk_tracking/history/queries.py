"""Questions about runs, answered as plain data. Agents ask them by `rldk-tracking mcp`.

Only what lies in the given folders and stores is read, and nothing is written.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from rldk_tracking.charts.incidents import by_weight, incidents_of
from rldk_tracking.charts.report import QUOTED_SERIES, differing
from rldk_tracking.charts.series import Points, extremes
from rldk_tracking.health.explain import explain
from rldk_tracking.health.presets import rules_for
from rldk_tracking.health.verdict import Coverage, verdict_on
from rldk_tracking.history.past import Past, load, newest_journal, series_of
from rldk_tracking.history.reading import candidates_of, runs_of, store_of
from rldk_tracking.history.run_history import UnreadableSourceError
from rldk_tracking.journal.catch_up import crash_of
from rldk_tracking.journal.contents import Contents
from rldk_tracking.messages.arguments import nearest

LOGS = ("*.jsonl", "run-*.wandb", "trainer_state.json", "events.out.tfevents.*")
"""Names of files by which a folder shows that a run is in it."""
PARTS = ("_rldk", "rldk", "completions", "checkpoint-*", ".*")
"""Folders of a run in which no other run is looked for."""
MOST_FOLDERS, MOST_RUNS = 10_000, 200
MOST_POINTS = 500
AROUND_ROWS, AROUND_POINTS = 5, 40


class Runs:
    """The runs that one who asks may see.

    Args:
        sources: folders and logs, and runs or experiments of a store, such as `mlflow:experiment/NAME`.
        rules: a preset or a YAML file, for runs that were not watched.

    Raises:
        UnreadableSourceError: a source that is not there.
        ValueError, OSError: wrong rules.
    """

    def __init__(self, sources: Sequence[str], rules: str = "safe") -> None:
        rules_for(rules)
        self._sources, self._rules = sources, rules
        self._stores = [source for source in sources if store_of(source) is not None]
        self._places = [Path(source).resolve() for source in sources if store_of(source) is None]
        for place in self._places:
            if not place.exists():
                raise UnreadableSourceError(f"{place}: no such file or folder.")

    def list_runs(self, below: str = "") -> dict[str, Any]:
        """The runs that can be asked about, those that changed last first: `run` is the name for the other tools.

        Of folders those are listed in which a training left a journal, TensorBoard files or a trainer_state.json, and
        logs (*.jsonl, run-*.wandb). Other logs (CSV, console output, notebooks) can be asked about by their path.

        Args:
            below: a folder; by default all folders and stores that this server was given.
        """
        places = [Path(self._admitted(below))] if below else self._places
        found = [place for place in places if place.is_file()]
        for place in places:
            for folder in itertools.islice(os.walk(place), MOST_FOLDERS):
                found += _runs_in(*folder)
        dated = sorted(((_changed(path), str(path)) for path in found), reverse=True)
        runs = [{"run": path, "changed": datetime.fromtimestamp(at, timezone.utc).isoformat()} for at, path in dated]
        stored = [] if below else [{"run": run} for store in self._stores for run in runs_of(store)]
        answer = {"runs": [*runs[:MOST_RUNS], *stored[:MOST_RUNS]]}
        left_out = len(runs) + len(stored) - len(answer["runs"])
        return answer | ({"left_out": left_out} if left_out else {})

    def verdict(self, run: str) -> dict[str, Any]:
        """How a run is: critical, warning, healthy, or unknown where too little was judged to call it healthy.

        The verdict is of the worst alert that fired, over or not; the sentence is on the run as it stands.
        """
        return _verdict(run, self._load(run))

    def open_alerts(self, run: str, also_over: bool = False) -> dict[str, Any]:
        """The alerts of a run that are open, the gravest first: what was seen, its evidence, and what to try.

        `around` holds [step, value] of the alert's series (`key`) about the steps at which it was seen.

        Args:
            run: as `list_runs` names it, or the path of a log.
            also_over: also those that have ended.
        """
        past = self._load(run)
        series = series_of(past.rows)
        alerts = []
        for incident in by_weight(incidents_of(past.alerts)):
            if incident.ended is not None and not also_over:
                continue
            last = next(a for a in reversed(past.alerts) if (a.rule, a.state) == (incident.rule, "firing"))
            alert = last.as_dict() | {"severity": incident.severity, "first_step": incident.first_step}
            if incident.ended is not None:
                alert["ended"] = incident.ended
            around = _around(series.get(last.key or "", []), incident.first_step, last.step)
            alerts.append(alert | ({"around": around} if around else {}))
        return {"run": run, "alerts": alerts}

    def explain_rule(self, rule: str) -> str:
        """What a rule watches and why, when it fires, likely causes, what to try first, where its limit comes from."""
        return explain(rule.strip().lower(), rules_for(self._rules))

    def series(
        self, run: str, key: str = "", first_step: int | None = None, last_step: int | None = None, most: int = 200
    ) -> dict[str, Any]:
        """The values of one of a run's series as [step, value]; without a key the last value of each series.

        Args:
            run: as `list_runs` names it, or the path of a log.
            key: of the series, such as rldk/kl/ref_k3.
            first_step: where to begin.
            last_step: where to end.
            most: points at most, to 500. Of more the lowest and the highest of each part are kept, so that no peak is
                lost.
        """
        series = series_of(self._load(run).rows)
        if not key:
            return {"run": run, "last": {key: points[-1] for key, points in sorted(series.items())}}
        if key not in series:
            raise ValueError(f"{run}: no series {key!r}{nearest(key, sorted(series))}")
        points = [
            (step, value)
            for step, value in series[key]
            if (first_step is None or step >= first_step) and (last_step is None or step <= last_step)
        ]
        kept = extremes(points, max(2, min(most, MOST_POINTS)))
        return {"run": run, "key": key, "points": kept, "of": len(points)}

    def compare(self, first: str, second: str) -> dict[str, Any]:
        """Two runs side by side: verdicts, alerts and settings that differ, last values. Each a pair, null for none.

        The alerts that differ are in the order in which they were first seen: the first is where the runs part.
        """
        names = (first, second)
        pasts = [self._load(run) for run in names]
        incidents = [{incident.rule: incident for incident in reversed(incidents_of(past.alerts))} for past in pasts]
        seen = [
            (rule, [None if (one := each.get(rule)) is None else (one.first_step, one.severity) for each in incidents])
            for rule in incidents[0] | incidents[1]
        ]
        parted = sorted(
            (item for item in seen if item[1][0] != item[1][1]), key=lambda item: min(filter(None, item[1]))[0]
        )
        last = [{key: points[-1][1] for key, points in series_of(past.rows).items()} for past in pasts]
        return {
            "runs": [_verdict(run, past) for run, past in zip(names, pasts, strict=True)],
            "alerts_that_differ": [{"rule": rule, "first_step_and_severity": pair} for rule, pair in parted],
            "settings_that_differ": dict(differing([past.report() for past in pasts])),
            "last_values": {
                key: [row.get(key) for row in last] for key in QUOTED_SERIES if any(key in row for row in last)
            },
        }

    def _load(self, run: str) -> Past:
        """A run with what its journal does not say yet: whether it goes on, or its process is gone."""
        past = load(self._admitted(run), self._rules)
        path = Path(run)
        journal = newest_journal(path) if path.is_dir() else path if path.suffix == ".jsonl" else None
        if past.status or journal is None:
            return past
        contents = Contents.of(journal)
        if contents.pid < 0:
            return past
        state = contents.state(journal)
        alerts = crash_of(journal, contents) if state == "crashed" else []
        return replace(past, status=state, alerts=[*past.alerts, *alerts])

    def _admitted(self, run: str) -> str:
        """The name of a run or folder. Raises PermissionError where it is outside of the sources."""
        if store_of(run) is not None:
            is_inside = run in self._stores or any(run in runs_of(store) for store in self._stores)
        else:
            path = Path(run)
            is_inside = self._holds(path) or not path.is_dir()
            # What is read of a folder, and the file of FILE#RUN.
            is_inside = is_inside and all(self._holds(candidate.path) for candidate in candidates_of(path))
        if not is_inside:
            raise PermissionError(f"{run}: outside of what this server may read: {', '.join(self._sources)}.")
        return run

    def _holds(self, path: Path) -> bool:
        return any(path.resolve().is_relative_to(place) for place in self._places)


def _runs_in(folder: str, folders: list[str], files: list[str]) -> Iterator[Path]:
    """The runs of one folder of a walk, which does not go into its parts."""
    here = Path(folder)
    has_checkpoints = any(here.glob("checkpoint-*/trainer_state.json"))
    folders[:] = sorted(name for name in folders if not any(fnmatch(name, part) for part in PARTS))
    logs = [name for name in files if any(fnmatch(name, log) for log in LOGS)]
    is_one = has_checkpoints or any(not name.endswith((".jsonl", ".wandb")) for name in logs)
    yield from [here] if is_one or newest_journal(here) is not None else (here / name for name in logs)


def _changed(path: Path) -> float:
    journal = newest_journal(path) if path.is_dir() else None
    return (journal or path).stat().st_mtime


def _verdict(run: str, past: Past) -> dict[str, Any]:
    row = {key: points[-1][1] for key, points in series_of(past.rows).items()}
    coverage = Coverage.of_row(row)
    incidents = incidents_of(past.alerts)
    return {
        "run": run,
        "verdict": verdict_on(past.alerts, row),
        "sentence": past.report().verdict,
        "status": past.status or "over",
        "step": max(step for step, _ in past.rows),
        "rows": len(past.rows),
        "open": [incident.rule for incident in incidents if incident.ended is None],
        "over": [incident.rule for incident in incidents if incident.ended is not None],
        "notes": [*past.notes, *([] if coverage is None else [coverage.sentence()])],
    }


def _around(points: Points, first: int, last: int) -> Points:
    """The points of some steps, and some before and after them."""
    places = [place for place, (step, _) in enumerate(points) if first <= step <= last]
    if not places:
        return []
    return extremes(points[max(0, places[0] - AROUND_ROWS) : places[-1] + 1 + AROUND_ROWS], AROUND_POINTS)
