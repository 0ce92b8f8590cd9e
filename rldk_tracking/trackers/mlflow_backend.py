"""MLflow for the package's commands: its store on this machine, its past runs, whose credentials go where."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from rldk_tracking.charts.mlflow import run_path, shows_views, view_path
from rldk_tracking.messages.packages import imported, install_line
from rldk_tracking.trackers.backend import Backend, DemoStore, PastRun
from rldk_tracking.trackers.base import RejectedError, Tracker
from rldk_tracking.trackers.mlflow import MLflowTracker
from rldk_tracking.trackers.mlflow_server import (
    URI_ADVICE,
    absolute,
    has_password,
    is_http,
    lacks_store,
    local_store,
    servers_only,
    without_credentials,
)

EXPERIMENT = "rldk-demo"
SERVER = "http://127.0.0.1:5000"
"""Where `mlflow ui` listens."""
OF_EXPERIMENT = "experiment/"


class MLflowStore(DemoStore):
    """A sqlite file in the folder, with the artifacts beside it."""

    report_to: ClassVar[str] = "mlflow"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._pages: list[str] = []
        self._both = SERVER

    @property
    def uri(self) -> str:
        """Relative where the folder is the working folder, so that the command is short."""
        path = self.folder / "mlflow.db"
        return f"sqlite:///{path.name}" if self.folder == Path.cwd() else f"sqlite:///{path}"

    def prepare(self) -> None:
        try:
            import mlflow
        except ImportError as error:
            raise ImportError(f"MLflow is not installed: {install_line('demo')}") from error
        os.environ["MLFLOW_TRACKING_URI"] = self.uri
        os.environ["MLFLOW_EXPERIMENT_NAME"] = EXPERIMENT
        mlflow.set_tracking_uri(self.uri)
        if mlflow.get_experiment_by_name(EXPERIMENT) is None:
            mlflow.create_experiment(EXPERIMENT, artifact_location=(self.folder / "mlruns").as_uri())

    def finished(self, name: str) -> None:
        import mlflow

        info = mlflow.last_active_run().info
        self._both = f"{SERVER}/{view_path(info.experiment_id)}"
        self._pages.append(f"  {name:<18}{SERVER}/{run_path(info.experiment_id, info.run_id)}")

    def how_to_open(self) -> list[str]:
        return [
            "Open the pages, in a browser, while this command runs:",
            f"  mlflow ui --backend-store-uri {self.uri}",
            *self._pages,
            f"  {'charts of all':<18}{self._both}",
        ]


class MLflowBackend(Backend):
    """See `MLflowTracker`."""

    kind = MLflowTracker
    title: ClassVar[str] = "MLflow"
    packages: ClassVar[tuple[str, ...]] = ("mlflow", "mlflow-skinny")
    extra: ClassVar[str] = "mlflow"
    callback: ClassVar[str] = "MLflowCallback"
    sources: ClassVar[str] = "mlflow:RUN_ID, mlflow:experiment/NAME (MLFLOW_TRACKING_URI says where)"
    demo = MLflowStore

    def is_open(self) -> bool:
        mlflow = sys.modules.get("mlflow")
        return mlflow is not None and mlflow.active_run() is not None

    def check(self, versions: Mapping[str, str | None]) -> tuple[bool, str]:
        version = versions["mlflow"] or versions.get("mlflow-skinny")
        if version is None:
            return False, f"{self.how_to_install}, or [mlflow-skinny] for a server alone"
        if versions["mlflow"] is None and not is_http(os.environ.get("MLFLOW_TRACKING_URI")):
            return False, servers_only()
        return True, where() + ("" if shows_views(version) else "; saved views need MLflow 3.15 or newer")

    def notes(self, versions: Mapping[str, str | None]) -> list[str]:
        uri, found = os.environ.get("MLFLOW_TRACKING_URI", ""), []
        if is_http(uri) and self.check(versions)[0]:
            found.append(
                "MLflow: transformers and TRL write to the server in the training thread. A dead server stops a step "
                "for about 250 s, a busy one for as long as its Retry-After header says. "
                "MLFLOW_HTTP_REQUEST_MAX_RETRIES=1 and MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER=false keep that short."
            )
        if has_password(uri):
            found.append(f"MLFLOW_TRACKING_URI holds a password. {URI_ADVICE}")
        return found

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--tracking-uri", help="the MLflow server to send to, whatever the journal says")
        parser.add_argument("--run-id", help="the run to write to, for a training that was killed before it had one")

    def named_run(self, arguments: argparse.Namespace) -> Mapping[str, str] | None:
        return None if arguments.run_id is None else {"tracking_uri": _configured(arguments)}

    def approved(
        self, to: Mapping[str, str], arguments: argparse.Namespace
    ) -> tuple[Mapping[str, str], Mapping[str, str]]:
        """The destination with this user's own address and credentials."""
        given = {} if arguments.run_id is None or to.get("run_id") else {"run_id": arguments.run_id}
        ours, named = _configured(arguments), to.get("tracking_uri", "")
        if arguments.tracking_uri is None and without_credentials(ours).rstrip("/") != named.rstrip("/"):
            _ask(named)
            ours = named
        return {**to, **given, "tracking_uri": without_credentials(ours)}, {"tracking_uri": ours}

    def read(self, path: str, skip: tuple[str, ...], also: Collection[str] = ()) -> PastRun:
        steps: dict[int, dict[str, float]] = {}
        with _client() as client:
            run = client.get_run(path)
            for key in _wanted(run.data.metrics, skip, also):
                for metric in client.get_metric_history(path, key):
                    steps.setdefault(metric.step, {})[key] = metric.value
        entries = [{"step": step} | steps[step] for step in sorted(steps)]
        return PastRun(entries, {name: _value(value) for name, value in run.data.params.items()})

    def runs(self, path: str) -> list[str]:
        """Those of an experiment, newest first."""
        if not path.startswith(OF_EXPERIMENT):
            return [path]
        with _client() as client:
            experiment = client.get_experiment_by_name(path.removeprefix(OF_EXPERIMENT))
            if experiment is None:
                at = without_credentials(client.tracking_uri)
                raise RejectedError(f"no such experiment in {at}; MLFLOW_TRACKING_URI names the store.")
            runs = client.search_runs([experiment.experiment_id], max_results=10_000)
        if not runs:
            raise RejectedError("the experiment has no run.")
        return [run.info.run_id for run in runs]

    @contextmanager
    def written_back(self, source: str) -> Iterator[tuple[Tracker, set[str]]]:
        """An `mlflow:RUN_ID` is that run: it gets the series that it does not have yet."""
        kind, _, run_id = source.partition(":")
        if kind != self.name:
            yield MLflowTracker(experiment="rldk-replay"), set()  # which ends the run that it makes
            return
        with _client() as client:
            known = set(client.get_run(run_id).data.metrics)
        yield MLflowTracker(run_id=run_id), known


def where() -> str:
    """Where MLflow writes, without user and password."""
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    try:
        return f"writes to {without_credentials(uri)}" if uri else "writes to MLflow's default store (working folder)"
    except ValueError:
        return "MLFLOW_TRACKING_URI is no address"


@contextmanager
def _client() -> Iterator[Any]:
    """A client of the configured store, whose refusals name the store. A store that is missing is not made."""
    mlflow = imported("mlflow", "Reading MLflow runs")
    address = str(mlflow.get_tracking_uri())
    uri, place = without_credentials(address), local_store(address)
    if place is not None and not place.exists():
        raise RejectedError(f"there is no MLflow store at {uri}; MLFLOW_TRACKING_URI names the store.")
    try:
        yield mlflow.MlflowClient(address)
    except mlflow.exceptions.MlflowException as error:
        message = servers_only() if lacks_store(error) else error.message
        raise RejectedError(f"{message} (asked was {uri})") from error


def _wanted(keys: Mapping[str, Any], skip: tuple[str, ...], also: Collection[str]) -> list[str]:
    """Our own series where there are any, else all: two copies of one quantity must not both be judged."""
    ours = [key for key in keys if key.startswith("rldk/") and not key.startswith(skip)]
    ours += [key for key in keys if ours and key in also]
    return ours or [key for key in keys if not key.startswith(("system/", "rldk/"))]


def _value(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def _configured(arguments: argparse.Namespace) -> str:
    """The tracking address of this user."""
    if arguments.tracking_uri is not None:
        return absolute(arguments.tracking_uri)
    import mlflow

    return absolute(str(mlflow.get_tracking_uri()))


def _ask(named: str) -> None:
    if sys.stdin is not None and sys.stdin.isatty():
        answer = input(f"The journal is for {named!r}, which is not your MLflow server. Send it there? [y/N] ")
        if answer.strip().lower() in ("y", "yes"):
            return
    raise PermissionError(
        f"it is for {named!r}, which is not your MLflow server; --tracking-uri {named!r} sends it there"
    )
