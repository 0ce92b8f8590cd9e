"""Trackio: series, alerts, tables and pictures in the run that is open, written by the courier.

| what | where in the run |
|---|---|
| rows | metrics, at the trainer's step; also tables, pictures and histograms, which Trackio shows as media |
| alerts | Trackio's alerts, with their level and step; also to the webhook that the run was given |

Trackio keeps its runs in a folder of this machine, in a Space, or on a server of one's own. Rows and alerts have ids
there, of which a second one is left out, so any call may be repeated.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, ClassVar

from rldk_tracking.charts.heatmap import Heatmap
from rldk_tracking.charts.panels import RunPictures
from rldk_tracking.health.alert import Alert
from rldk_tracking.messages.packages import imported, install_line
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.backend import Backend
from rldk_tracking.trackers.base import Row, Tracker, UnavailableError
from rldk_tracking.trackers.records import ENDED, Call
from rldk_tracking.trackers.trackio_store import Entry, Store, store_of

STEP = "train/global_step"
"""What transformers gives to its own rows; Trackio can draw over it."""
FOLDER_VARIABLE = "TRACKIO_DIR"

_LEVELS = {"info": "INFO", "warning": "WARN", "critical": "ERROR"}


class TrackioTracker(Tracker):
    """Writes to the Trackio run that transformers, or `trackio.init`, has opened; never opens or ends one.

    Only the run's store is used, so a run that was finished meanwhile is not opened again. Each row names its step:
    without, Trackio counts all rows of the run, TRL's timings included.

    Raises:
        ImportError: trackio is not installed, or older than 0.36.
    """

    name: ClassVar[str] = "trackio"
    in_process: ClassVar[bool] = False
    # Then transformers makes the frozen copy of a Space, which is to have everything.
    ends_with_trainer: ClassVar[bool] = True
    how_to_join: ClassVar[str] = 'Give the trainer report_to="trackio", or call trackio.init() before train().'
    rows_per_call: ClassVar[int] = 50

    def __init__(self) -> None:
        trackio = imported("trackio", "TrackioTracker")
        if not hasattr(trackio, "Html"):
            raise ImportError(f"TrackioTracker needs a newer trackio: {install_line('trackio')}")
        self._trackio = trackio
        self._to: dict[str, str] = {}
        self._secrets: dict[str, str] = {}
        self._is_resumed = False
        self._store: Store | None = None
        self._pictures: RunPictures | None = None

    @property
    def joined(self) -> bool:
        return bool(self._to)

    def open(self, run: RunInfo) -> None:
        """Look for the run of this thread, at each call: it may be opened later."""
        # `Html` fits a picture into its card, and leaves a whole page as it is.
        self._pictures = RunPictures(self._trackio.Html, run, self._trackio.Histogram)
        current = self._trackio.context_vars.current_run.get()
        if self._is_resumed or current is None:
            return
        folder = {} if current.url else {"folder": str(self._trackio.utils.TRACKIO_DIR.absolute())}
        place = {"url": str(current.url)} if current.url else folder
        self._to = {"project": current.project, "run": current.name, "id": current.id, **place}
        level = getattr(current, "_webhook_min_level", None)
        secrets = {
            "write_token": self._trackio.context_vars.current_server_write_token.get(),
            "webhook": getattr(current, "_webhook_url", None),
            "webhook_level": None if level is None else level.value,
        }
        self._secrets = {name: value for name, value in secrets.items() if value}

    @classmethod
    def resume(cls, to: Mapping[str, str], secrets: Mapping[str, str]) -> TrackioTracker:
        """Goes on with a run by its id, in the store where it is."""
        if not to.get("id"):
            raise ValueError("the training ended before it had a Trackio run")
        folder = to.get("folder")
        if folder is not None and "trackio" not in sys.modules:
            os.environ[FOLDER_VARIABLE] = folder  # which trackio reads when it is imported
        tracker = cls()
        if folder not in (None, str(tracker._trackio.utils.TRACKIO_DIR.absolute())):
            raise ValueError(f"the run is in {folder}, and {FOLDER_VARIABLE} of this process names another folder")
        tracker._to, tracker._secrets, tracker._is_resumed = dict(to), dict(secrets), True
        return tracker

    def restore(self, past: Iterable[Call]) -> None:
        if self._pictures is not None:
            self._pictures.restore(past)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.log_rows([Row(metrics, step, datetime.now(timezone.utc).timestamp())])

    def log_rows(self, rows: Sequence[Row]) -> None:
        entries = [self._row(dict(row.metrics), row.step, row.time) for row in rows if row.metrics]
        self._opened().rows(entries)
        for row in rows:
            self._show({} if self._pictures is None else self._pictures.row(row.all, row.step), row.step)

    def log_table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        self._show({key: self._trackio.Table(columns=list(columns), data=[list(row) for row in rows])}, step)

    def log_figure(self, key: str, svg: str, step: int) -> None:
        self._show({key: self._trackio.Html(svg)}, step)

    def log_heatmap(self, key: str, heatmap: Heatmap, step: int) -> None:
        if self._pictures is not None:
            self._show(self._pictures.heatmap(key, heatmap), step)

    def alert(self, alert: Alert) -> None:
        """As `trackio.alert` does, but at the alert's own step. One that is not for people is left out."""
        if self._pictures is not None:
            self._pictures.alert(alert)
        if not alert.notify:
            return
        level = self._trackio.AlertLevel["INFO" if alert.state == "resolved" else _LEVELS[alert.severity]]
        text = f"{alert.message} {alert.advice}" if alert.state == "firing" else alert.message
        fields = {"title": alert.title, "text": text.strip(), "level": level.value, "step": alert.step}
        entry = {**self._of_run(), **fields, "timestamp": datetime.now(timezone.utc).isoformat()}
        entry["alert_id"] = self._id("alert", alert.rule, alert.state, alert.severity, alert.step)
        self._opened().alert(entry)
        if self._secrets.get("webhook"):
            self._post(level, entry)

    def status(self, status: str, metrics: Mapping[str, float], step: int) -> None:
        """Trackio has no place for it; at the end come the last pictures and the report."""
        if status in ENDED and self._pictures is not None:
            self._show(self._pictures.at_end(status, self._to["run"]), step)

    def url(self) -> str | None:
        """The page of the Space, or of the server; a folder has no page until somebody serves it."""
        url = self._to.get("url")
        return url if url is None or "://" in url else f"https://huggingface.co/spaces/{url}"

    def address(self) -> Mapping[str, str]:
        return dict(self._to)

    def secrets(self) -> Mapping[str, str]:
        return dict(self._secrets)

    def close(self) -> None:
        """Forget the run: one tracker may serve one training after another."""
        if not self._is_resumed:
            self._to, self._secrets = {}, {}

    def _opened(self) -> Store:
        if not self._to:
            raise UnavailableError("no Trackio run is open")
        if self._store is None:
            self._store = store_of(self._to.get("url"), self._secrets.get("write_token"))
        return self._store

    def _of_run(self) -> Entry:
        return {"project": self._to["project"], "run": self._to["run"], "run_id": self._to["id"]}

    def _row(self, values: Mapping[str, Any], step: int, time: float) -> Entry:
        timestamp = datetime.fromtimestamp(time, timezone.utc).isoformat()
        row = {"metrics": {**values, STEP: step}, "step": step, "timestamp": timestamp, "config": None}
        return {**self._of_run(), **row, "log_id": self._id("row", step, *sorted(values.items()))}

    def _show(self, shown: Mapping[str, Any], step: int) -> None:
        """Write tables, pictures and histograms as a row."""
        if shown:
            store, place = self._opened(), (self._to["project"], self._to["run"], step)
            values = {key: store.media(value, *place) for key, value in shown.items()}
            store.rows([self._row(values, step, datetime.now(timezone.utc).timestamp())])

    def _id(self, *parts: Any) -> str:
        """Of a row or an alert: the same for the same."""
        return hashlib.sha256(repr((self._to["id"], *parts)).encode()).hexdigest()[:32]

    def _post(self, level: Any, entry: Entry) -> None:
        alerts = self._trackio.alerts
        least = alerts.resolve_webhook_min_level(self._secrets.get("webhook_level"))
        if alerts.should_send_webhook(level, least):
            fields = (entry[name] for name in ("title", "text", "project", "run", "step", "timestamp"))
            alerts.send_webhook(self._secrets["webhook"], level, *fields)


class TrackioBackend(Backend):
    """See `TrackioTracker`."""

    kind = TrackioTracker
    title: ClassVar[str] = "Trackio"
    packages: ClassVar[tuple[str, ...]] = ("trackio",)
    extra: ClassVar[str] = "trackio"
    callback: ClassVar[str] = "TrackioCallback"

    def is_open(self) -> bool:
        trackio = sys.modules.get("trackio")
        return trackio is not None and trackio.context_vars.current_run.get() is not None

    def approved(
        self, to: Mapping[str, str], arguments: argparse.Namespace
    ) -> tuple[Mapping[str, str], Mapping[str, str]]:
        """Only the store that this user's environment names: it gets their token, or files of theirs."""
        import trackio

        if "url" not in to:
            ours, variable, named = str(trackio.utils.TRACKIO_DIR.absolute()), FOLDER_VARIABLE, to.get("folder", "")
            secrets: dict[str, str] = {}
        else:
            is_server, named = "://" in to["url"], to["url"]
            variable = "TRACKIO_SERVER_URL" if is_server else "TRACKIO_SPACE_ID"
            ours, token = trackio.utils.parse_trackio_server_url(os.environ.get(variable, ""))
            token = token or os.environ.get("TRACKIO_WRITE_TOKEN")
            secrets = {"write_token": token} if is_server and token else {}
        if ours != named:
            raise PermissionError(f"it is for {named!r}, which is not your Trackio; {variable}={named} sends it there")
        return to, secrets
