"""What a run's page in MLflow shows beyond its series: a note on its health, its colour, the way to the charts.

| what | where | when |
|---|---|---|
| kind | the experiment's tag `mlflow.experimentKind`, where it has none and holds no traces | first row |
| charts | the experiment's saved view, see `rldk_tracking.charts.mlflow` | where a run has data for new charts |
| pictures: what broke, heat-maps | artifacts `rldk/charts/overview.svg` (also in the note), `<key>.svg` | see below |
| note | `mlflow.note.content`, where that is empty or ours | first row, status and alerts in time, every minute |
| colour | `mlflow.runColor`, where that is empty or ours | with the note |
| report | artifact `rldk/report.html` | at the end |
| link | the terminal | first row, end |

A picture is drawn when alerts or a heat-map have changed, and now and then while a run goes on, but only so often that
drawing takes at most a two-hundredth of the time; at the end always.

Everything here is an addition to the series: where a store does not take it, that is said once and training's own rows
go on. All calls come from the tracker's own thread.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from rldk_tracking.charts.announce import announce
from rldk_tracking.charts.binning import Cadence
from rldk_tracking.charts.heatmap import Heatmap
from rldk_tracking.charts.incidents import incidents_of, worst_open
from rldk_tracking.charts.mlflow import (
    View,
    is_server,
    mark_as_training,
    models_path,
    run_path,
    server_version,
    shows_views,
    view_path,
)
from rldk_tracking.charts.report import Report, note
from rldk_tracking.charts.series import Earlier, Thinned
from rldk_tracking.charts.spec import COVERAGE_TAG
from rldk_tracking.health.alert import Alert, Severity
from rldk_tracking.rollout import RunInfo

logger = logging.getLogger(__name__)

NOTE = "mlflow.note.content"
NOTE_MARK = "rldk.note"
REPORT_FILE = "rldk/report.html"
OVERVIEW_FILE = "rldk/charts/overview.svg"
DRAWING_SHARE = 0.005
"""Of the time, at most, that is spent on drawing."""
REFRESH_SECONDS = 60.0
STATUS_SECONDS, AN_ALERT_SECONDS = 2.0, 0.05
"""Between two notes where the run's state changes again and again: at least so much, and so much for each alert."""
LOCAL = "http://127.0.0.1:5000"  # where `mlflow ui` serves a local store
PICTURES = {"rldk/charts/reward_distribution": "Rewards", "rldk/charts/layer_gradients": "Gradients by layer"}
"""Heat-maps to how the note calls them."""
ENDED = ("finished", "stopped", "crashed")
COLOUR_TAG = "mlflow.runColor"
"""A run's colour, which the list of runs and the charts share."""
RUN_COLOURS: dict[Severity | None, tuple[str, ...]] = {
    **dict.fromkeys((None, "info"), ("#0072b2", "#56b4e9", "#1f77b4", "#4c78a8", "#2b9fbf")),
    "warning": ("#e69f00", "#f0c000", "#e6ab02", "#fbb040", "#c99700"),
    "critical": ("#d55e00", "#a50f15", "#8b0000", "#b22222", "#99000d"),
}
"""Health to shades: the charts take a run's colour, and two healthy runs must be told apart. Blue, yellow and dark red,
and no green, which many people cannot tell from red."""


class RunPage:
    """The page of one run.

    Args:
        mlflow: the module.
        client: an `MlflowClient`.
        run_id, experiment_id: the run.
        info: what is known of the training.
        place: address of the server without credentials, or of a local store.
        past: rows of the run that an earlier process has written.
        heatmaps: those that it has written last.

    Attributes:
        has_checkpoints: whether the store has a model for a checkpoint.
    """

    def __init__(
        self,
        mlflow: Any,
        client: Any,
        run_id: str,
        experiment_id: str,
        info: RunInfo,
        place: str,
        past: Thinned | None = None,
        heatmaps: Mapping[str, Heatmap] | None = None,
    ) -> None:
        self._refusals = (mlflow.exceptions.MlflowException, OSError)
        self._client = client
        self._tag = mlflow.entities.RunTag
        self._run_id = run_id
        self._experiment_id = experiment_id
        self._info = info
        self._place = place
        version = server_version(place) if is_server(place) else str(mlflow.__version__)
        self._view = View(client, experiment_id, info.trainer) if shows_views(version) else None
        if self._view is None:
            announce(f"MLflow {version} shows no saved views (3.15 does); the run's own page groups the charts.")
        self._past = past or Thinned()
        self._alerts: list[Alert] = []
        self._status = "running"
        self._due = self._not_before = 0.0
        self._said: set[str] = set()
        self._heatmaps: dict[str, Heatmap] = dict(heatmaps or {})
        self._undrawn: set[str] = set()
        self._next_drawing = 0.0
        self._cadence = Cadence()
        self._first: int | None = min((points[0][0] for points in self._past.series.values() if points), default=None)
        self._pictured_at: int | None = None
        self._is_on_this_disk = self.has_checkpoints = False

    def row(self, metrics: Mapping[str, float], step: int) -> None:
        """A row that the store has taken, under the names that it has there."""
        first = self._past.step is None
        self._first = step if first else self._first
        self._past.add(metrics, step)
        self._cadence.count()
        if self._cadence.due:
            self._cadence.done()
            self._undrawn.add(OVERVIEW_FILE)
        view = self._view
        if view is not None:
            self._shielded("the view", lambda: view.show(metrics))
        if first:
            self._shielded("the kind of experiment", lambda: mark_as_training(self._client, self._experiment_id))
            self._point_out()
        if first or time.monotonic() >= self._due or self._may_draw():
            self.refresh()

    def heatmap(self, key: str, heatmap: Heatmap) -> None:
        """A heat-map, which becomes the artifact `<key>.svg`."""
        self._heatmaps[key] = heatmap
        self._undrawn.add(f"{key}.svg")
        if self._may_draw():
            self.refresh()

    def checkpoint(self) -> None:
        """The store has a model for a checkpoint."""
        self.has_checkpoints = True

    def alert(self, alerts: Sequence[Alert]) -> None:
        """All alerts of the run so far."""
        self._take_alerts(alerts)
        self.refresh()

    def status(self, status: str, alerts: Sequence[Alert]) -> None:
        """The run's state; a state that ends it brings the report."""
        self._status = status
        self._take_alerts(alerts)
        if self._past.step is None:
            return
        if status in ENDED:
            self._undrawn.add(OVERVIEW_FILE)
            self._shielded("the report", self._store_report)
        if status in ENDED or time.monotonic() >= self._not_before:
            self.refresh()
        else:  # with the next row that comes late enough
            self._due = min(self._due, self._not_before)
        if status in ENDED:
            self._point_out()

    def refresh(self) -> None:
        """Make picture, note and colour anew."""
        now = time.monotonic()
        self._due = now + REFRESH_SECONDS
        self._not_before = now + min(REFRESH_SECONDS, max(STATUS_SECONDS, AN_ALERT_SECONDS * len(self._alerts)))
        if self._may_draw():
            self._shielded("the pictures", self._draw)
        self._shielded("the note", self._write_note)

    def links(self) -> dict[str, str]:
        """Text to address below the server's, for the note."""
        there = self._view is not None and self._view.there
        found = {"Charts of all runs": view_path(self._experiment_id)} if there else {}
        found["Charts of this run"] = run_path(self._experiment_id, self._run_id, "model-metrics")
        if self._alerts:
            found["Alerts"] = self._artifact("rldk/alerts.json")
        for key, name in PICTURES.items():
            if key in self._heatmaps and f"{key}.svg" not in self._undrawn:
                found[name] = self._artifact(f"{key}.svg")
        if self._status in ENDED:
            found["Report"] = self._artifact(REPORT_FILE)
        if self.has_checkpoints:
            found["Checkpoints"] = models_path(self._experiment_id)
        return found

    def _artifact(self, path: str) -> str:
        return run_path(self._experiment_id, self._run_id, f"artifacts/{quote(path)}")

    def _point_out(self) -> None:
        links = self.links()
        if self._status in ENDED:
            what = "the run, with what to try" if self._alerts else "the run"
            announce(f"{what}: {self._address(run_path(self._experiment_id, self._run_id))}")
        name, path = next(iter(links.items()))
        hint = "" if is_server(self._place) else f" (served by `mlflow ui --backend-store-uri {self._place}`)"
        announce(f"{name[0].lower()}{name[1:]} in MLflow: {self._address(path)}{hint}")

    def _address(self, path: str) -> str:
        return f"{self._place.rstrip('/') if is_server(self._place) else LOCAL}/{path}"

    def _take_alerts(self, alerts: Sequence[Alert]) -> None:
        if list(alerts) != self._alerts:
            self._alerts = list(alerts)
            self._undrawn.add(OVERVIEW_FILE)

    def _may_draw(self) -> bool:
        """Whether there is something to draw, and drawing has not taken its share of the time yet."""
        return bool(self._undrawn) and (self._status in ENDED or time.monotonic() >= self._next_drawing)

    def _draw(self) -> None:
        from rldk_tracking.charts.pictures import heatmap_svg, overview

        start = time.thread_time()
        pictures = {name: heatmap_svg(self._heatmaps[name[:-4]]) for name in self._undrawn - {OVERVIEW_FILE}}
        if OVERVIEW_FILE in self._undrawn:
            pictures[OVERVIEW_FILE] = overview(incidents_of(self._alerts), self._past.series)
        self._next_drawing = time.monotonic() + (time.thread_time() - start) / DRAWING_SHARE
        for name, picture in pictures.items():
            if picture:
                self._client.log_text(self._run_id, str(picture), name)
                self._pictured_at = self._past.step if name == OVERVIEW_FILE else self._pictured_at
            self._undrawn.discard(name)

    def _picture(self) -> str:
        """Address of the picture for the note; empty where the server cannot read what this process has stored."""
        if self._pictured_at is None or (is_server(self._place) and self._is_on_this_disk):
            return ""
        # The step keeps browsers from showing an old version.
        return f"get-artifact?path={quote(OVERVIEW_FILE)}&run_uuid={self._run_id}&step={self._pictured_at}"

    def _write_note(self) -> None:
        run = self._client.get_run(self._run_id)
        tags, incidents = run.data.tags, incidents_of(self._alerts)
        self._is_on_this_disk = urlsplit(run.info.artifact_uri or "").scheme in ("", "file")
        wanted: dict[str, str] = {}
        present = tags.get(NOTE, "")
        if not present.strip() or tags.get(NOTE_MARK) == _digest(present):
            shown = (incidents, self.links(), self._picture(), tags.get(COVERAGE_TAG, ""))
            text = note(self._status, self._past.step, self._past.row, *shown)
            wanted |= {NOTE: text, NOTE_MARK: _digest(text)}
        if tags.get(COLOUR_TAG, "") in {"", *(shade for shades in RUN_COLOURS.values() for shade in shades)}:
            wanted[COLOUR_TAG] = run_colour(worst_open(incidents), self._run_id)
        changed = [self._tag(key, value) for key, value in wanted.items() if tags.get(key) != value]
        if changed:
            self._client.log_batch(self._run_id, tags=changed)

    def _store_report(self) -> None:
        series, resumed_after = self._past.series, None
        if self._first is not None:
            earlier = Earlier(self._client, self._run_id, self._first)
            series, resumed_after = earlier.before(series), earlier.left_out
        page = Report(
            title=self._client.get_run(self._run_id).info.run_name or self._info.name or self._run_id,
            status=self._status,
            trainer=self._info.trainer,
            series=series,
            alerts=self._alerts,
            settings=self._info.config,
            heatmaps=self._heatmaps,
            resumed_after=resumed_after,
        )
        self._client.log_text(self._run_id, page.html(), REPORT_FILE)

    def _shielded(self, what: str, write: Callable[[], None]) -> None:
        try:
            write()
        except ImportError as fault:
            self._say(what, f"A run's page goes without {what}. {fault}")
        except self._refusals as fault:
            self._say(what, f"MLflow does not take {what} ({type(fault).__name__}). The series are not concerned.")

    def _say(self, what: str, text: str) -> None:
        if what not in self._said:
            self._said.add(what)
            logger.info("%s", text)


def run_colour(severity: Severity | None, run_id: str) -> str:
    """The run's colour: its health gives the hue, its id the shade."""
    shades = RUN_COLOURS[severity]
    return shades[hashlib.sha256(run_id.encode()).digest()[0] % len(shades)]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
