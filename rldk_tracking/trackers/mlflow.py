"""MLflow: series, tags, tables and pictures in the run that is open, through the client alone.

| what | where in the run |
|---|---|
| rows | metrics, at the trainer's step |
| status | tags `rldk.status`, `rldk.step`, `rldk.heartbeat` (UTC) |
| alerts | tag `rldk.alerts.open` (rule ids), artifact `rldk/alerts.json` (a table, one row a transition) |
| note, colour, report, the experiment's charts | see `rldk_tracking.charts.page` |
| checkpoints | external models of the run, with the checkpoint's numbers as their metrics |
| heat-maps | artifacts `<key>.svg`, always the latest |
| tables, figures | artifacts `<key>/step-<step>.json`, `.svg` |
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any, ClassVar
from urllib.parse import urlsplit, urlunsplit

import requests

from rldk_tracking.charts.heatmap import Heatmap
from rldk_tracking.charts.page import RunPage
from rldk_tracking.health.alert import Alert
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers.base import RejectedError, Row, Tracker, UnavailableError
from rldk_tracking.trackers.journal import decode, dumps
from rldk_tracking.trackers.mlflow_models import log_model
from rldk_tracking.trackers.mlflow_names import Names

METRICS_PER_REQUEST = 1000
ALERTS_FILE = "rldk/alerts.json"
ALERT_COLUMNS = ("step", "rule", "severity", "state", "first_step", "value", "threshold", "message", "advice", "key")
TABLES_TAG = "mlflow.loggedArtifacts"
"""Where `mlflow.load_table` looks up which artifacts are tables: a JSON list of {"path", "type"}."""

_FINAL = {"finished": "FINISHED", "stopped": "KILLED", "crashed": "FAILED"}
_TAG_LENGTH = 8000
_HOPELESS = frozenset(
    {
        "INVALID_PARAMETER_VALUE",
        "RESOURCE_DOES_NOT_EXIST",
        "INVALID_STATE",
        "FEATURE_DISABLED",
        "NOT_IMPLEMENTED",
        "ENDPOINT_NOT_FOUND",
        "MALFORMED_REQUEST",
    }
)
"""MLflow's error codes that the same call gets again. Permissions are not among them: they can be given."""

_NEVER = ("error code 413", "unique constraint", "duplicate entry")
"""In the message of a refusal that the same call gets again: words of the server, of sqlite and Postgres, of MySQL."""

_HEARTBEAT_SECONDS = 30.0


class MLflowTracker(Tracker):
    """Writes to the active MLflow run, to the one named, or to one of its own.

    Only the client is used: the fluent functions of MLflow open a run of their own when called from another thread or
    after the end of the run. A client may write to a run that has ended, which is what the last row needs.

    Args:
        run_id: an existing run. It is never ended from here.
        tracking_uri: where that run or experiment is; without it, MLflow's own setting.
        experiment: name of an experiment, made if need be, in which a run is made, and ended at `close`. `tracking_uri`
            alone does the same in the default experiment, unless the active run is in that store.

    Raises:
        ImportError: mlflow is not installed.
    """

    name: ClassVar[str] = "mlflow"

    def __init__(
        self, run_id: str | None = None, tracking_uri: str | None = None, experiment: str | None = None
    ) -> None:
        try:
            import mlflow
        except ImportError as error:
            raise ImportError('MLflowTracker needs mlflow: pip install "rldk-tracking[mlflow]"') from error
        self._mlflow: Any = mlflow
        self._given = (run_id, tracking_uri, experiment)
        self._info = RunInfo()
        self._names = Names()
        self._reset()

    def _reset(self) -> None:
        self.run_id, self.tracking_uri, self._experiment = self._given
        self.experiment_id: str | None = None
        self._client: Any = None
        self._opened = False
        self._owns_run = False
        self._status: str | None = None
        self._step = 0
        self._beat = 0.0
        self._alerts: list[list[Any]] | None = None
        self._open_alerts: dict[str, str] = {}
        self._page: RunPage | None = None
        self._of_models: set[str] = set()

    @property
    def batch(self) -> int:
        return 50

    @property
    def in_process(self) -> bool:
        """True where MLflow writes to a database or folder itself instead of asking a server."""
        return not (self.tracking_uri or "").startswith(("http", "databricks"))

    @property
    def joined(self) -> bool:
        return self._opened and (self.run_id is not None or self._makes_run)

    @property
    def _makes_run(self) -> bool:
        """Whether the user asked for a run of ours."""
        given_run, given_uri, given_experiment = self._given
        return given_run is None and (given_experiment is not None or given_uri is not None)

    def open(self, run: RunInfo) -> None:
        """Look for the active run, which MLflow keeps for each thread apart: to be called on the training thread."""
        if self.joined:
            return
        # Nothing is kept of an earlier look: MLflow's store may be set only when the run is opened.
        self._reset()
        self._info = run
        self._opened = True
        store = self._mlflow.get_tracking_uri()
        if self.tracking_uri is None:
            self.tracking_uri = store
        if self.run_id is None and self._experiment is None and self.tracking_uri == store:
            active = self._mlflow.active_run()
            if active is not None:
                self.run_id, self.experiment_id = active.info.run_id, active.info.experiment_id

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.log_rows([Row(metrics, step, datetime.now(timezone.utc).timestamp())])

    def log_rows(self, rows: Sequence[Row]) -> None:
        """Written in order. A row that is sent twice is stored once: SQL stores compare key, step, time and value."""
        metric = self._mlflow.entities.Metric
        metrics = [
            metric(self._names[key], float(value), int(row.time * 1000), int(row.step))
            for row in rows
            for key, value in row.metrics.items()
            if math.isfinite(value) and self._names[key] not in self._of_models
        ]
        self._step = int(rows[-1].step)
        client = self._connect()
        for start in range(0, len(metrics), METRICS_PER_REQUEST):
            with _translated(self._mlflow):
                client.log_batch(self.run_id, metrics=metrics[start : start + METRICS_PER_REQUEST])
        if time.monotonic() - self._beat > _HEARTBEAT_SECONDS:
            self._set_tags({})
        page = self._run_page()
        for row in rows:
            taken = {self._names[key]: value for key, value in row.metrics.items() if math.isfinite(value)}
            page.row(taken, int(row.step))

    def log_table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        self._write_table(f"{self._names[key]}/step-{step:08d}.json", columns, rows)

    def log_figure(self, key: str, svg: str, step: int) -> None:
        client = self._connect()
        with _translated(self._mlflow):
            client.log_text(self.run_id, svg, f"{self._names[key]}/step-{step:08d}.svg")

    def log_heatmap(self, key: str, heatmap: Heatmap, step: int) -> None:
        client = self._connect()
        svg = heatmap.svg()
        with _translated(self._mlflow):
            client.log_text(self.run_id, svg, f"{self._names[key]}.svg")
        self._run_page().heatmap(self._names[key], heatmap)

    def log_checkpoint(self, name: str, metrics: Mapping[str, float], params: Mapping[str, str], step: int) -> None:
        """An external model, which the Models tab compares with the run's other checkpoints."""
        client = self._connect()
        taken = {self._names[key]: value for key, value in metrics.items() if math.isfinite(value)}
        with _translated(self._mlflow):
            log_model(self._mlflow, client, str(self.run_id), str(self.experiment_id), name, taken, params, step)
        # A model's numbers are the run's as well, at the step of the checkpoint. Rows have them at the step at which
        # they became known, which may be that of the next checkpoint: there would be two of them.
        self._of_models |= set(taken)
        self._run_page().checkpoint()

    def alert(self, alert: Alert) -> None:
        """MLflow has no alerts: the run's tags say what is open, and a table tells the whole story."""
        self._connect()
        if self._alerts is None:
            self._alerts = self._earlier_alerts()
        entry = [getattr(alert, column) for column in ALERT_COLUMNS]
        if not self._alerts or self._alerts[-1] != entry:
            self._alerts.append(entry)
        self._write_table(ALERTS_FILE, ALERT_COLUMNS, self._alerts)
        if alert.state == "firing":
            self._open_alerts[alert.rule] = alert.severity
        else:
            self._open_alerts.pop(alert.rule, None)
        tags = {"rldk.alerts.open": ",".join(sorted(self._open_alerts))}
        if self._status not in _FINAL:
            severities = set(self._open_alerts.values())
            tags["rldk.status"] = next((word for word in ("critical", "warning") if word in severities), "running")
        self._set_tags(tags)
        self._run_page().alert(self._alerts_so_far())

    def status(self, status: str, metrics: Mapping[str, float], step: int) -> None:
        self._status = status
        self._step = int(step)
        self._set_tags({"rldk.status": status})
        if self._alerts is None:
            self._alerts = self._earlier_alerts()
        self._run_page().status(status, self._alerts_so_far())

    def url(self) -> str | None:
        """The run's page on an http(s) server; a local store has no page until somebody serves it."""
        if self.run_id is None or self.experiment_id is None or not _is_http(self.tracking_uri):
            return None
        server = _without_credentials(self.tracking_uri or "").rstrip("/")
        return f"{server}/#/experiments/{self.experiment_id}/runs/{self.run_id}"

    def last_step(self) -> int | None:
        client = self._connect()
        with _translated(self._mlflow):
            latest = client.get_run(self.run_id).to_proto().data.metrics
        return max((int(metric.step) for metric in latest if metric.key.startswith("rldk/")), default=None)

    def address(self) -> Mapping[str, str]:
        found = {"run_id": self.run_id, "tracking_uri": _without_credentials(self.tracking_uri or "")}
        return {name: value for name, value in found.items() if value}

    def close(self) -> None:
        """End the run if it is ours. `run_id` and `url` stay known until the tracker is opened for another training."""
        try:
            if self._owns_run and self._client is not None:
                with _translated(self._mlflow):
                    self._client.set_terminated(self.run_id, _FINAL.get(self._status or "", "FINISHED"))
        finally:
            self._opened = False

    def _connect(self) -> Any:
        """The client, after a look whether its server answers; makes the run where one was asked for.

        MLflow's own retries keep a call to a dead server for minutes (246 s by default), which is too long to learn
        that it is dead.
        """
        if not self.joined:
            raise UnavailableError("no MLflow run is open")
        if _is_http(self.tracking_uri):
            self._knock()
        with _translated(self._mlflow):
            if self._client is None:
                self._client = self._mlflow.MlflowClient(tracking_uri=self.tracking_uri)
            if self.run_id is None:
                self._make_run()
            elif self.experiment_id is None:
                self.experiment_id = self._client.get_run(self.run_id).info.experiment_id
        return self._client

    def _make_run(self) -> None:
        experiment_id = "0"
        if self._experiment is not None:
            found = self._client.get_experiment_by_name(self._experiment)
            experiment_id = self._client.create_experiment(self._experiment) if found is None else found.experiment_id
        run = self._client.create_run(experiment_id, run_name=self._info.name)
        self.run_id, self.experiment_id, self._owns_run = run.info.run_id, experiment_id, True

    def _knock(self) -> None:
        """Raises UnavailableError when the server does not answer within seconds, or says that it cannot now."""
        place = _without_credentials(self.tracking_uri or "").rstrip("/")
        reason = None
        try:
            status = requests.get(f"{place}/health", timeout=(3.05, 5), allow_redirects=False).status_code
            reason = f"HTTP {status}" if status == 429 or status >= 500 else None
        except requests.exceptions.SSLError:
            # It speaks, if not to us: MLflow has its own settings for certificates.
            return
        except requests.exceptions.RequestException as fault:
            reason = type(fault).__name__
        if reason is not None:
            raise UnavailableError(f"the MLflow server at {place} does not take anything now ({reason})")

    def _set_tags(self, tags: Mapping[str, str]) -> None:
        client = self._connect()
        self._beat = time.monotonic()
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        tags = dict(tags) | {"rldk.step": str(self._step), "rldk.heartbeat": now}
        tag = self._mlflow.entities.RunTag
        with _translated(self._mlflow):
            client.log_batch(self.run_id, tags=[tag(key, value[:_TAG_LENGTH]) for key, value in tags.items()])

    def _write_table(self, path: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        client = self._connect()
        with _translated(self._mlflow):
            client.log_text(self.run_id, dumps({"columns": list(columns), "data": [list(r) for r in rows]}), path)
            known = json.loads(client.get_run(self.run_id).data.tags.get(TABLES_TAG, "[]"))
            entry = {"path": path, "type": "table"}
            tag = json.dumps([*known, entry])
            # MLflow cuts a longer tag, which would take the tables away that it lists already.
            if entry not in known and len(tag) <= _TAG_LENGTH:
                client.set_tag(self.run_id, TABLES_TAG, tag)

    def _run_page(self) -> RunPage:
        if self._page is None:
            place = _without_credentials(self.tracking_uri or "")
            run_id, experiment_id = str(self.run_id), str(self.experiment_id)
            self._page = RunPage(self._mlflow, self._client, run_id, experiment_id, self._info, place)
        return self._page

    def _alerts_so_far(self) -> list[Alert]:
        entries = [dict(zip(ALERT_COLUMNS, row, strict=True)) for row in self._alerts or ()]
        return [decode({"type": "alert"} | entry)[1][0] for entry in entries]

    def _earlier_alerts(self) -> list[list[Any]]:
        """The table that an earlier process left in this run, so that a resumed run goes on with it."""
        with _translated(self._mlflow):
            tags = self._client.get_run(self.run_id).data.tags
            if ALERTS_FILE not in tags.get(TABLES_TAG, ""):
                return []
            stored = self._mlflow.artifacts.load_text(
                f"{self._client.get_run(self.run_id).info.artifact_uri}/{ALERTS_FILE}"
            )
        table = json.loads(stored)
        places = {column: index for index, column in enumerate(table["columns"])}
        return [
            [row[places[column]] if column in places else None for column in ALERT_COLUMNS] for row in table["data"]
        ]


@contextmanager
def _translated(mlflow: Any) -> Iterator[None]:
    """MLflow's exceptions as those that `Delivery` knows."""
    try:
        yield
    except mlflow.exceptions.MlflowException as error:
        # Too large, or at odds with what the store holds already: neither will pass later.
        # What a trigger or a full disk refuses may pass later, and some stores call that an IntegrityError too.
        never = any(sign in str(error).lower() for sign in _NEVER)
        kind = RejectedError if never or str(error.error_code) in _HOPELESS else UnavailableError
        raise kind(f"{error.error_code}: {error}") from error


def _is_http(uri: str | None) -> bool:
    return uri is not None and uri.startswith(("http://", "https://"))


def _without_credentials(uri: str) -> str:
    parts = urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
