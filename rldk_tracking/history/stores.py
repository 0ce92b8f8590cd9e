"""Runs out of MLflow and W&B: every metric, the run's settings, step by step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rldk_tracking.history.run_history import History, UnreadableSourceError, history

OURS_BUT_JUDGED = ("rldk/health/", "rldk/alerts/", "rldk/system/overhead")
"""Series that rules produced; a replay produces its own."""


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
    client = _client()
    experiment = client.get_experiment_by_name(name.removeprefix(prefix))
    if experiment is None:
        raise UnreadableSourceError(f"{name}: no such experiment in {client.tracking_uri}.")
    return [f"mlflow:{run.info.run_id}" for run in client.search_runs([experiment.experiment_id], max_results=10_000)]


def _client() -> Any:
    try:
        from mlflow import MlflowClient
    except ImportError as error:
        raise ImportError("Reading MLflow runs needs mlflow: pip install 'rldk-tracking[mlflow]'.") from error
    return MlflowClient()


def _mlflow(name: str, run_id: str, aliases: Mapping[str, str] | None) -> History:
    from mlflow.exceptions import MlflowException

    client = _client()
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        raise UnreadableSourceError(f"{name}: {error.message}") from error
    steps: dict[int, dict[str, float]] = {}
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
    try:
        run = wandb.Api().run(path)
    except (ValueError, wandb.errors.Error) as error:
        raise UnreadableSourceError(f"{name}: {error}") from error
    entries = [
        {key: value for key, value in entry.items() if value is not None and not key.startswith(OURS_BUT_JUDGED)}
        for entry in run.scan_history()
    ]
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
