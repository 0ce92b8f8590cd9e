"""What is written into one MLflow run: the run itself, its tags and tables, its models, and names that MLflow takes."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rldk_tracking.charts.spec import COVERAGE, COVERAGE_TAG
from rldk_tracking.trackers.base import UnavailableError
from rldk_tracking.trackers.lines import dumps

LONGEST_NAME = 250
ORIGIN_TAG = "rldk.origin"
"""Of a run that a tracker made: the training that it was made for, so that it is made once."""
TABLES_TAG = "mlflow.loggedArtifacts"
"""Where MLflow looks up which artifacts are tables: a JSON list of {"path", "type"}."""
EXTERNAL_TAG = "mlflow.model.isExternal"
"""What `mlflow.create_external_model` sets; that function itself writes to the store that is set for the process."""
_TAG_LENGTH = 8000
"""MLflow cuts a longer tag."""
_PARAMETER_LENGTH = 250


class Names:
    """Keys to names of metrics, each key always to the same one. One illegal name, and nothing of a batch is stored.

    Allowed are letters, digits, `_ - . : /` and blank, in a path without empty, `.` or `..` parts, 250 characters long.
    Two keys that come out the same are told apart by a number, in the order in which they are first seen.
    """

    def __init__(self) -> None:
        self._name_of: dict[str, str] = {}
        self._taken: set[str] = set()

    def __getitem__(self, key: str) -> str:
        name = self._name_of.get(key)
        if name is None:
            name = self._name_of[key] = self._unused(sanitised(key))
            self._taken.add(name)
        return name

    def finite(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Metrics under their names, without those that are no finite number."""
        return {self[key]: value for key, value in metrics.items() if math.isfinite(value)}

    def _unused(self, wanted: str) -> str:
        name, number = wanted, 2
        while name in self._taken:
            suffix = f"_{number}"
            name, number = wanted[: LONGEST_NAME - len(suffix)] + suffix, number + 1
        return name


def sanitised(key: str) -> str:
    """The nearest legal name: illegal characters become `_`, empty path parts go, parts of dots alone become `_`."""
    parts = [part for part in re.sub(r"[^\w./\- :]", "_", str(key)).split("/") if part]
    legal = "/".join(part if part.strip(".") else "_" for part in parts)
    return legal[:LONGEST_NAME].rstrip("/") or "_"


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


def write_table(client: Any, run_id: str, path: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a table in the place of an earlier one of its path; the one on coverage is a tag as well, for the note.

    Raises:
        MlflowException: the store does not take it.
    """
    client.log_text(run_id, dumps({"columns": list(columns), "data": [list(row) for row in rows]}), path)
    if path.startswith(COVERAGE):
        write_tags(client, run_id, {COVERAGE_TAG: rows[0][0]})
    known = _listed(client, run_id)
    entry = {"path": path, "type": "table"}
    tag = json.dumps([*known, entry])
    if entry not in known and len(tag) <= _TAG_LENGTH:  # a tag that is cut would take the earlier tables away
        client.set_tag(run_id, TABLES_TAG, tag)


def is_listed(client: Any, run_id: str, path: str) -> bool:
    """Whether the run has such a table."""
    return {"path": path, "type": "table"} in _listed(client, run_id)


def _listed(client: Any, run_id: str) -> list[Any]:
    found = json.loads(client.get_run(run_id).data.tags.get(TABLES_TAG) or "[]")
    return found if isinstance(found, list) else []


def log_model(
    mlflow: Any,
    client: Any,
    run_id: str,
    experiment_id: str,
    name: str,
    metrics: Mapping[str, float],
    params: Mapping[str, str],
    step: int,
) -> str:
    """Make the model of one checkpoint, or find that of an earlier call, and give it the metrics that it lacks.

    MLflow's page compares a run's models by their metrics. Nothing is uploaded: the model says where the checkpoint
    lies. Its metrics are those of the run at the checkpoint's step, so that the run's charts show them too.

    Args:
        mlflow, client: the module and a client of the store that holds the run.
        run_id, experiment_id: the run.
        name: of the model, such as `checkpoint-200`.
        metrics: finite numbers under names that MLflow takes.
        params: short texts.
        step: the checkpoint's.

    Returns:
        The model's id.
    """
    model = _known(client, experiment_id, run_id, name)
    if model is None:
        model = client.create_logged_model(
            experiment_id=experiment_id,
            name=name,
            source_run_id=run_id,
            tags={EXTERNAL_TAG: "true", "rldk.step": str(step)},
            params={key: str(value)[:_PARAMETER_LENGTH] for key, value in params.items()},
            model_type="checkpoint",
        )
    if str(model.status) != "READY":  # also that of a call which broke off before it was
        client.log_outputs(run_id, [mlflow.entities.LoggedModelOutput(str(model.model_id), step)])
        client.finalize_logged_model(str(model.model_id), "READY")
    model_id, now = str(model.model_id), int(time.time() * 1000)
    # A call that is repeated, or a step that a resumed training made again: what the run holds stays as it is.
    held = {metric.key for metric in model.metrics or ()}
    entity = mlflow.entities.Metric
    rows = [
        entity(key, float(value), now, int(step), model_id=model_id, run_id=run_id)
        for key, value in metrics.items()
        if key not in held
    ]
    client.log_batch(run_id, metrics=rows)
    return model_id


def _known(client: Any, experiment_id: str, run_id: str, name: str) -> Any:
    found = client.search_logged_models(
        [experiment_id], filter_string=f"name = '{name}' AND source_run_id = '{run_id}'", max_results=1
    )
    return found[0] if found else None
