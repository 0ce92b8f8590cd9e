"""Tables as artifacts of an MLflow run, listed so that `mlflow.load_table` and the run's page know them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rldk_tracking.trackers.records import dumps

TAG = "mlflow.loggedArtifacts"
"""Where MLflow looks up which artifacts are tables: a JSON list of {"path", "type"}."""
_TAG_LENGTH = 8000
"""MLflow cuts a longer tag, which would take the tables away that it lists already."""


def write_table(client: Any, run_id: str, path: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a table in the place of an earlier one of its path.

    Raises:
        MlflowException: the store does not take it.
    """
    client.log_text(run_id, dumps({"columns": list(columns), "data": [list(row) for row in rows]}), path)
    known = _listed(client, run_id)
    entry = {"path": path, "type": "table"}
    tag = json.dumps([*known, entry])
    if entry not in known and len(tag) <= _TAG_LENGTH:
        client.set_tag(run_id, TAG, tag)


def is_listed(client: Any, run_id: str, path: str) -> bool:
    """Whether the run has such a table."""
    return {"path": path, "type": "table"} in _listed(client, run_id)


def _listed(client: Any, run_id: str) -> list[Any]:
    found = json.loads(client.get_run(run_id).data.tags.get(TAG) or "[]")
    return found if isinstance(found, list) else []
