"""MLflow: series, tags, tables and pictures in the run that is open, through the client alone.

| what | where in the run |
|---|---|
| rows | metrics, at the trainer's step |
| status | tags `rldk.status`, `rldk.step`, `rldk.heartbeat` (UTC) |
| alerts | tag `rldk.alerts.open` (rule ids), artifact `rldk/alerts.json` (a table, one row a transition) |
| note, colour, report, the experiment's charts | see `rldk_tracking.charts.page` |
| checkpoints | external models of the run, with the checkpoint's numbers as their metrics |
| heat-maps | artifacts `<key>.svg`, always the latest, drawn as `rldk_tracking.charts.page` says |
| tables, figures | artifacts `<key>/step-<step>.json`, `.svg`; what is not read is a tag too, `rldk.coverage` |
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any, ClassVar

from rldk_tracking.charts.heatmap import Heatmap
from rldk_tracking.charts.page import RunPage
from rldk_tracking.charts.series import Thinned
from rldk_tracking.health.alert import Alert
from rldk_tracking.messages.arguments import text
from rldk_tracking.messages.packages import install_line
from rldk_tracking.rollout import RunInfo
from rldk_tracking.trackers import mlflow_run
from rldk_tracking.trackers.base import Row, Tracker, UnavailableError
from rldk_tracking.trackers.mlflow_alerts import AlertTable
from rldk_tracking.trackers.mlflow_server import Server, absolute, check_uri, is_http, translated, without_credentials
from rldk_tracking.trackers.records import Call

METRICS_PER_REQUEST = 1000
_FINAL = {"finished": "FINISHED", "stopped": "KILLED", "crashed": "FAILED"}
_HEARTBEAT_S = 30.0


class MLflowTracker(Tracker):
    """Writes to the active MLflow run, to the one named, or to one of its own.

    Only the client is used: MLflow's fluent functions open a run of their own in another thread or after a run's end,
    and a client may write to a run that has ended, which is what the last row needs.

    Args:
        run_id: an existing run. It is never ended from here.
        tracking_uri: where that run or experiment is; without it, MLflow's own setting.
        experiment: name of an experiment, made if need be, in which a run is made, and ended at `close`. The address
            alone does so in the default experiment, unless the active run is in that store.

    Raises:
        ImportError: mlflow is not installed.

    Examples:
        >>> from rldk_tracking import MLflowTracker, RLDKCallback
        >>> callback = RLDKCallback(trackers=[MLflowTracker()])  # joins the run that is open when training begins
    """

    name: ClassVar[str] = "mlflow"
    in_process: ClassVar[bool] = False
    how_to_join: ClassVar[str] = (
        "Call mlflow.start_run() before train(), name a run, MLflowTracker(run_id=...), or have one made, "
        "MLflowTracker(experiment=...)."
    )
    rows_per_call: ClassVar[int] = 50

    def __init__(
        self, run_id: str | None = None, tracking_uri: str | None = None, experiment: str | None = None
    ) -> None:
        try:
            import mlflow
        except ImportError as error:
            raise ImportError(f"MLflowTracker needs mlflow: {install_line('mlflow')} (or mlflow-skinny)") from error
        self._mlflow: Any = mlflow
        text("run_id", run_id, "a run's id", '"<32 digits>"')
        text("tracking_uri", tracking_uri, "a server's address", '"http://127.0.0.1:5000"')
        text("experiment", experiment, "an experiment's name", '"my-experiment"')
        check_uri(tracking_uri or mlflow.get_tracking_uri())
        self._given, self._info = (run_id, tracking_uri, experiment), RunInfo()
        self._given_origin: str | None = None
        self._reset()

    def _reset(self) -> None:
        self.run_id, self.tracking_uri, self._experiment = self._given
        self.experiment_id: str | None = None
        self._origin = self._given_origin
        self._client: Any = None
        self._server: Server | None = None
        self._is_known = self._opened = False
        self._status: str | None = None
        self._step, self._beat = 0, 0.0
        self._names, self._alerts = mlflow_run.Names(), AlertTable()
        self._page: RunPage | None = None
        self._past = Thinned()
        self._heatmaps: dict[str, Heatmap] = {}
        self._of_models: set[str] = set()

    @property
    def joined(self) -> bool:
        return self._opened and (self.run_id is not None or self._makes_run)

    @property
    def _place(self) -> str:
        """The store's address without credentials."""
        return without_credentials(self.tracking_uri or "")

    @property
    def _makes_run(self) -> bool:
        """Whether the user asked for a run of ours."""
        return self._given[0] is None and self._given[1:] != (None, None)

    def open(self, run: RunInfo) -> None:
        """Look for the active run, which MLflow keeps for each thread apart: to be called on the training thread."""
        if self.joined:
            return
        # Nothing is kept of an earlier look: MLflow's store may be set only when the run is opened.
        self._reset()
        self._info, self._opened = run, True
        store = self._mlflow.get_tracking_uri()
        in_store = self.tracking_uri is None or self.tracking_uri == store
        self.tracking_uri = absolute(self.tracking_uri or store)
        if self.run_id is None and self._experiment is None and in_store:
            active = self._mlflow.active_run()
            if active is not None:
                self.run_id, self.experiment_id = active.info.run_id, active.info.experiment_id
        if self.run_id is None and self._makes_run:
            self._origin = self._origin or uuid.uuid4().hex

    @classmethod
    def resume(cls, to: Mapping[str, str], secrets: Mapping[str, str]) -> MLflowTracker:
        """Goes on with a run by its id; one that is to be made is made once, however often this is called."""
        uri = secrets.get("tracking_uri") or to.get("tracking_uri")
        if not to.get("run_id") and not to.get("origin"):
            raise ValueError("the training ended before it had an MLflow run")
        tracker = cls(to.get("run_id"), uri, to.get("experiment"))
        tracker._given_origin = to.get("origin")
        return tracker

    def restore(self, past: Iterable[Call]) -> None:
        for method, args in past:
            if method == "log":
                self._past.add(self._names.finite(args[0]), args[1])
                self._step = args[1]
            elif method == "alert":
                self._alerts.add(args[0])
            elif method == "status":
                self._status = args[0]
            elif method == "log_heatmap":
                self._heatmaps[self._names[args[0]]] = args[1]
            elif method == "log_checkpoint":
                self._of_models |= {self._names[key] for key in args[1]}

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.log_rows([Row(metrics, step, datetime.now(timezone.utc).timestamp())])

    def log_rows(self, rows: Sequence[Row]) -> None:
        """Written in order. A row that is sent twice is stored once: SQL stores compare key, step, time and value."""
        metric = self._mlflow.entities.Metric
        taken = [self._names.finite(row.metrics) for row in rows]
        metrics = [
            metric(name, float(value), int(row.time * 1000), int(row.step))
            for row, values in zip(rows, taken, strict=True)
            for name, value in values.items()
            if name not in self._of_models
        ]
        self._step = int(rows[-1].step)
        with self._store() as client:
            for start in range(0, len(metrics), METRICS_PER_REQUEST):
                client.log_batch(self.run_id, metrics=metrics[start : start + METRICS_PER_REQUEST])
        if time.monotonic() - self._beat > _HEARTBEAT_S:
            self._set_tags({})
        for row in rows:
            self._run_page().row(self._names.finite(row.all), int(row.step))

    def log_table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        with self._store() as client:
            mlflow_run.write_table(client, str(self.run_id), f"{self._names[key]}/step-{step:08d}.json", columns, rows)

    def log_figure(self, key: str, svg: str, step: int) -> None:
        with self._store() as client:
            client.log_text(self.run_id, svg, f"{self._names[key]}/step-{step:08d}.svg")

    def log_heatmap(self, key: str, heatmap: Heatmap, step: int) -> None:
        with self._store():
            page = self._run_page()
        page.heatmap(self._names[key], heatmap)

    def log_checkpoint(self, name: str, metrics: Mapping[str, float], params: Mapping[str, str], step: int) -> None:
        """An external model, which the Models tab compares with the run's other checkpoints."""
        taken = self._names.finite(metrics)
        with self._store() as client:
            mlflow_run.log_model(
                self._mlflow, client, str(self.run_id), str(self.experiment_id), name, taken, params, step
            )
        # A model's numbers are the run's as well, at the step of the checkpoint. Rows have them at the step at which
        # they became known, which may be that of the next checkpoint: there would be two of them.
        self._of_models |= set(taken)
        self._run_page().checkpoint()

    def alert(self, alert: Alert) -> None:
        """MLflow has no alerts: the run's tags say what is open, and a table tells the whole story."""
        self._alerts.add(alert)
        self.flush()

    def status(self, status: str, metrics: Mapping[str, float], step: int) -> None:
        self._status, self._step = status, int(step)
        with self._store() as client:
            self._alerts.load(client, str(self.run_id))
        if self._alerts.waits and status in _FINAL:
            self._write_alerts()
        self._set_tags({"rldk.status": status})
        self._run_page().status(status, self._alerts.alerts)

    def url(self) -> str | None:
        """The run's page on an http(s) server; a local store has no page until somebody serves it."""
        if self.run_id is None or self.experiment_id is None or not is_http(self.tracking_uri):
            return None
        return f"{self._place.rstrip('/')}/#/experiments/{self.experiment_id}/runs/{self.run_id}"

    def last_step(self) -> int | None:
        with self._store() as client:
            return mlflow_run.last_step(client, str(self.run_id))

    def address(self) -> Mapping[str, str]:
        found = {"run_id": self.run_id, "experiment_id": self.experiment_id, "tracking_uri": self._place}
        found |= {"experiment": self._experiment, "origin": self._origin}
        return {name: value for name, value in found.items() if value}

    def secrets(self) -> Mapping[str, str]:
        """The address with user and password, where it has them. Those in the environment are found there."""
        return {"tracking_uri": self.tracking_uri} if self.tracking_uri and self.tracking_uri != self._place else {}

    def adopt(self, to: Mapping[str, str]) -> None:
        self.run_id = to.get("run_id") or self.run_id
        self.experiment_id = to.get("experiment_id") or self.experiment_id

    def flush(self) -> None:
        """Write the alerts that came too soon after others."""
        if self._alerts.is_due:
            self._write_alerts()
        elif self._alerts.are_tags_due:
            self._tag_alerts()

    def close(self) -> None:
        """End the run if it is ours. `run_id` and `url` stay known until the tracker is opened for another training."""
        try:
            if self._alerts.waits:
                self._write_alerts()
            if self._origin is not None and self._client is not None:
                with translated(self._mlflow):
                    self._client.set_terminated(self.run_id, _FINAL.get(self._status or "", "FINISHED"))
        finally:
            self._opened = False

    @contextmanager
    def _store(self) -> Iterator[Any]:
        """The client, after a look whether its server answers; makes the run where one was asked for."""
        if not self.joined:
            raise UnavailableError("no MLflow run is open")
        if is_http(self.tracking_uri):
            self._server = self._server or Server(self._place)
            self._is_known = self._server.knock() and self._is_known
        with translated(self._mlflow):
            if self._client is None:
                self._client = self._mlflow.MlflowClient(tracking_uri=self.tracking_uri)
            if self.run_id is None:
                made = mlflow_run.make_run(self._client, self._experiment, str(self._origin), self._info.name)
                self.run_id, self.experiment_id = made
            elif not self._is_known:
                self.experiment_id = mlflow_run.experiment_of(self._client, self.run_id)
            self._is_known = True
            yield self._client

    def _set_tags(self, tags: Mapping[str, str]) -> None:
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        with self._store() as client:
            self._beat = time.monotonic()
            mlflow_run.write_tags(
                client, str(self.run_id), {**tags, "rldk.step": str(self._step), "rldk.heartbeat": now}
            )

    def _write_alerts(self) -> None:
        with self._store() as client:
            self._alerts.load(client, str(self.run_id))
            self._tag_alerts()
            self._alerts.write(client, str(self.run_id))
        self._run_page().alert(self._alerts.alerts)

    def _tag_alerts(self) -> None:
        self._set_tags(self._alerts.tags | ({"rldk.status": str(self._status)} if self._status in _FINAL else {}))
        self._alerts.note_tags()

    def _run_page(self) -> RunPage:
        if self._page is None:
            run, past = (str(self.run_id), str(self.experiment_id)), (self._past, self._heatmaps)
            self._page = RunPage(self._mlflow, self._client, *run, self._info, self._place, *past)
            self._page.has_checkpoints = bool(self._of_models)
        return self._page
