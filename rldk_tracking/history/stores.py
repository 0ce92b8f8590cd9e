"""Runs out of MLflow and W&B: every metric, the run's settings, step by step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rldk_tracking.history.run_history import JUDGED, History, UnreadableSourceError, history
from rldk_tracking.trackers.mlflow_server import without_credentials

OURS_BUT_JUDGED = (*JUDGED, "rldk/system/overhead")
"""Series of ours that a replay has no use for."""


def read_store(name: str, aliases: Mapping[str, str] | None = None) -> History:
    """`mlflow:RUN_ID` or `wandb:ENTITY/PROJECT/RUN`.

    Raises:
        ImportError: the client is not installed.
        UnreadableSourceError: there is no such run, or it holds nothing known.
    """
    kind, _, path = name.partition(":")
    return _mlflow(name, path, aliases) if kind == "mlflow" else _wandb(name, path, aliases)


def runs_of(name: str) -> list[str]:
    """The single runs that `mlflow:experiment/NAME` stands for, newest first; other names stand for themselves.

    Raises:
        UnreadableSourceError: there is no such experiment.
    """
    prefix = "mlflow:experiment/"
    if not name.startswith(prefix):
        return [name]
    with _client(name) as client:
        experiment = client.get_experiment_by_name(name.removeprefix(prefix))
        if experiment is None:
            where = without_credentials(client.tracking_uri)
            raise UnreadableSourceError(f"{name}: no such experiment in {where}; MLFLOW_TRACKING_URI names the store.")
        runs = client.search_runs([experiment.experiment_id], max_results=10_000)
    if not runs:
        raise UnreadableSourceError(f"{name}: the experiment has no run.")
    return [f"mlflow:{run.info.run_id}" for run in runs]


@contextmanager
def _client(name: str) -> Iterator[Any]:
    """A client of the configured store, whose refusals say what was asked for. A store that is missing is not made."""
    try:
        import mlflow
        from mlflow.exceptions import MlflowException
    except ImportError as error:
        raise ImportError("Reading MLflow runs needs mlflow: pip install 'rldk-tracking[mlflow]'.") from error
    address = str(mlflow.get_tracking_uri())
    uri = without_credentials(address)
    place = local_store(address)
    if place is not None and not place.exists():
        raise UnreadableSourceError(f"{name}: there is no MLflow store at {uri}; MLFLOW_TRACKING_URI names the store.")
    try:
        yield mlflow.MlflowClient(address)
    except MlflowException as error:
        raise UnreadableSourceError(f"{name}: {error.message} (asked was {uri})") from error


def local_store(uri: str) -> Path | None:
    """Where on this disk a store's address leads; None for a server or another database."""
    for prefix in ("sqlite:///", "file://", "file:"):
        if uri.startswith(prefix):
            return Path(uri.removeprefix(prefix).partition("?")[0])
    return None if "://" in uri or uri.startswith("databricks") else Path(uri)


def _mlflow(name: str, run_id: str, aliases: Mapping[str, str] | None) -> History:
    steps: dict[int, dict[str, float]] = {}
    with _client(name) as client:
        run = client.get_run(run_id)
        for key in _wanted(run.data.metrics):
            for metric in client.get_metric_history(run_id, key):
                steps.setdefault(metric.step, {})[key] = metric.value
    entries = [{"step": step} | steps[step] for step in sorted(steps)]
    return history(name, entries, {k: _value(v) for k, v in run.data.params.items()}, aliases)


def _wandb(name: str, path: str, aliases: Mapping[str, str] | None) -> History:
    try:
        import wandb
    except ImportError as error:
        raise ImportError("Reading W&B runs needs wandb: pip install 'rldk-tracking[wandb]'.") from error
    if len([part for part in path.split("/") if part]) != 3 or path.count("/") != 2:
        raise UnreadableSourceError(f"{name}: write wandb:ENTITY/PROJECT/RUN.")
    try:
        run = wandb.Api().run(path)
        entries = [
            {key: value for key, value in entry.items() if value is not None and not key.startswith(OURS_BUT_JUDGED)}
            for entry in run.scan_history()
        ]
    except (ValueError, wandb.errors.Error) as error:
        raise UnreadableSourceError(f"{name}: {error}") from error
    settings = {key: value for key, value in run.config.items() if isinstance(value, (int, float, str))}
    return history(name, entries, settings, aliases)


def _wanted(keys: Mapping[str, Any]) -> list[str]:
    """Our own series where there are any, else all: two copies of one quantity must not both be judged."""
    ours = [key for key in keys if key.startswith("rldk/") and not key.startswith(OURS_BUT_JUDGED)]
    return ours or [key for key in keys if not key.startswith(("system/", "rldk/"))]


def _value(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text
