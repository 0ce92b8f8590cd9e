from __future__ import annotations

from typing import Any

import pytest

from rldk_tracking.trackers.mlflow_tables import TAG, is_listed, write_table

pytest.importorskip("mlflow", reason="needs mlflow")


def test_a_table_is_listed_once_and_others_stay(store: Any) -> None:
    client = store.client
    run_id = client.create_run(
        store.experiment_id, tags={TAG: '[{"path": "theirs.json", "type": "table"}]'}
    ).info.run_id
    assert not is_listed(client, run_id, "ours.json")
    for value in (1, 2):
        write_table(client, run_id, "ours.json", ["a"], [[value]])
    assert is_listed(client, run_id, "ours.json") and is_listed(client, run_id, "theirs.json")
    assert client.get_run(run_id).data.tags[TAG].count("ours.json") == 1
    assert client.load_table(store.experiment_id, "ours.json", run_ids=[run_id])["a"].tolist() == [2]
