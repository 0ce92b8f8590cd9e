"""A saved checkpoint as an external model of MLflow, whose page compares the run's checkpoints by their metrics.

Nothing is uploaded: the model says where the checkpoint lies. Its metrics are those of the run at the checkpoint's
step, so that the run's charts show them too.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

EXTERNAL_TAG = "mlflow.model.isExternal"
"""What `mlflow.create_external_model` sets; that function itself writes to the store that is set for the process."""
MODEL_TYPE = "checkpoint"
PARAMETER_LENGTH = 250


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
            params={key: str(value)[:PARAMETER_LENGTH] for key, value in params.items()},
            model_type=MODEL_TYPE,
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
