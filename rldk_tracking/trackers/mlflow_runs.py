"""An MLflow run through the client: made once for each training, its tags, its last step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rldk_tracking.trackers.base import UnavailableError

ORIGIN_TAG = "rldk.origin"
"""Of a run that a tracker made: the training that it was made for, so that it is made once."""
HOW_TO_JOIN = (
    "Call mlflow.start_run() before train(), name a run, MLflowTracker(run_id=...), or have one made, "
    "MLflowTracker(experiment=...)."
)
_TAG_LENGTH = 8000


def make_run(client: Any, experiment: str | None, origin: str, name: str | None) -> tuple[str, str]:
    """The run of a training, made where it is not there yet.

    Args:
        client: an `MlflowClient`.
        experiment: its experiment, made where it is missing; None for the default one.
        origin: stands for the training.
        name: of the run.

    Returns:
        Ids of run and experiment.

    Raises:
        MlflowException: the store does not answer.
        UnavailableError: what answers is not MLflow.
    """
    experiment_id = "0"
    if experiment is not None:
        found = client.get_experiment_by_name(experiment)
        experiment_id = client.create_experiment(experiment) if found is None else found.experiment_id
    made = client.search_runs([experiment_id], f"tags.`{ORIGIN_TAG}` = '{origin}'", max_results=1)
    run = made[0] if made else client.create_run(experiment_id, run_name=name, tags={ORIGIN_TAG: origin})
    if not run.info.run_id or not experiment_id:
        raise UnavailableError("what answers makes no run, and is not MLflow")
    return run.info.run_id, experiment_id


def experiment_of(client: Any, run_id: str) -> str:
    """The id of a run's experiment.

    Raises:
        MlflowException: the store does not answer, or has no such run.
        UnavailableError: what answers is not MLflow.
    """
    info = client.get_run(run_id).info
    if info.run_id != run_id or not info.experiment_id:
        raise UnavailableError("what answers knows nothing of the run, and is not MLflow")
    return str(info.experiment_id)


def write_tags(client: Any, run_id: str, tags: Mapping[str, str]) -> None:
    """Write tags in one request, each cut at the length that MLflow takes. Raises MlflowException."""
    from mlflow.entities import RunTag

    client.log_batch(run_id, tags=[RunTag(key, value[:_TAG_LENGTH]) for key, value in tags.items()])


def last_step(client: Any, run_id: str) -> int | None:
    """The last step of our series in a run, None where it has none. Raises MlflowException."""
    latest = client.get_run(run_id).to_proto().data.metrics
    return max((int(metric.step) for metric in latest if metric.key.startswith("rldk/")), default=None)
