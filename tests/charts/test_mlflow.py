"""The saved view: what stands in it, and whose it is."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from rldk_tracking.charts import spec
from rldk_tracking.charts.mlflow import (
    MARK,
    VIEW_TAG,
    View,
    models_path,
    run_path,
    view_path,
)
from rldk_tracking.charts.spec import VIEW_NAME
from rldk_tracking.charts.view_state import packed
from tests.charts.saved_views import unpacked

GRPO = ["rldk/reward/mean", "rldk/kl/ref_k3", "rldk/kl/limit", "rldk/reward/group_tied_fraction", "loss"]
PPO = ["rldk/reward/mean", "rldk/value/explained_variance"]


@pytest.fixture
def experiment(client: Any) -> str:
    return str(client.create_experiment("tests"))


def drawn(client: Any, experiment: str) -> dict[str, list[list[str]]]:
    """Section to the series of its charts."""
    state = unpacked(client.get_experiment(experiment).tags[VIEW_TAG])
    names = {section["uuid"]: section["name"] for section in state["compareRunSections"]}
    shown: dict[str, list[list[str]]] = {name: [] for name in names.values()}
    for card in state["compareRunCharts"]:
        if not card["deleted"]:
            shown[names[card["metricSectionId"]]].append(card["selectedMetricKeys"])
    return shown


def test_the_view_has_the_sections_for_which_there_is_data(client: Any, experiment: str) -> None:
    view = View(client, experiment, "GRPOTrainer")
    view.show(GRPO)
    assert view.there
    assert drawn(client, experiment) == {
        "Rollouts": [["rldk/reward/mean"], ["rldk/reward/group_tied_fraction"]],
        "KL and policy": [["rldk/kl/ref_k3", "rldk/kl/limit"]],
    }
    assert json.loads(client.get_experiment(experiment).tags[VIEW_TAG])["name"] == VIEW_NAME


def test_what_is_drawn_already_is_not_written_again(client: Any, experiment: str) -> None:
    View(client, experiment, "GRPOTrainer").show(GRPO)
    tags = client.get_experiment(experiment).tags
    writes: list[str] = []
    client.set_experiment_tag = lambda *call: writes.append(call[1])
    again = View(client, experiment, "GRPOTrainer")
    again.show(GRPO)
    again.show([*GRPO, "profiling/time"])
    assert again.there
    assert writes == []
    assert client.get_experiment(experiment).tags == tags


def test_known_series_cost_no_look_at_the_store(client: Any, experiment: str) -> None:
    view = View(client, experiment, "GRPOTrainer")
    view.show(GRPO)
    client.get_experiment = None
    for _ in range(3):
        view.show(GRPO)


def test_it_grows_with_the_data_and_keeps_what_other_runs_drew(client: Any, experiment: str) -> None:
    grpo = View(client, experiment, "GRPOTrainer")
    grpo.show(GRPO)
    first = json.loads(client.get_experiment(experiment).tags[VIEW_TAG])
    grpo.show([*GRPO, "rldk/checkpoint/score"])
    View(client, experiment, "PPOTrainer").show(PPO)
    shown = drawn(client, experiment)
    assert list(shown) == ["Rollouts", "KL and policy", "Value and advantage", "Checkpoints"]
    assert shown["Rollouts"] == [["rldk/reward/mean"], ["rldk/reward/group_tied_fraction"]]
    second = json.loads(client.get_experiment(experiment).tags[VIEW_TAG])
    assert second["createdAt"] == first["createdAt"]
    assert second["updatedAt"] >= first["updatedAt"]


def test_a_new_version_of_the_specification_is_written(
    client: Any, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    View(client, experiment, "GRPOTrainer").show(GRPO)
    before = json.loads(client.get_experiment(experiment).tags[MARK])
    monkeypatch.setattr("rldk_tracking.charts.spec.VERSION", spec.VERSION + 1)
    View(client, experiment, "GRPOTrainer").show(GRPO)
    assert json.loads(client.get_experiment(experiment).tags[MARK])["signature"] != before["signature"]


def test_a_view_that_the_user_changed_stays(client: Any, experiment: str, caplog: pytest.LogCaptureFixture) -> None:
    View(client, experiment, "GRPOTrainer").show(GRPO)
    state = unpacked(client.get_experiment(experiment).tags[VIEW_TAG])
    theirs = packed(state | {"searchFilter": "metrics.loss < 1"}, 1, 2)
    client.set_experiment_tag(experiment, VIEW_TAG, theirs)
    with caplog.at_level(logging.INFO, "rldk_tracking"):
        view = View(client, experiment, "PPOTrainer")
        view.show(PPO)
    assert client.get_experiment(experiment).tags[VIEW_TAG] == theirs
    assert view.there
    assert "stays as it is" in caplog.text


def test_a_view_that_the_user_deleted_stays_away(client: Any, experiment: str) -> None:
    View(client, experiment, "GRPOTrainer").show(GRPO)
    client.delete_experiment_tag(experiment, VIEW_TAG)
    view = View(client, experiment, "PPOTrainer")
    view.show(PPO)
    assert VIEW_TAG not in client.get_experiment(experiment).tags
    assert not view.there


def test_views_of_the_user_are_not_touched(client: Any, experiment: str) -> None:
    theirs = {"mlflow.sharedViewState.0123abc": packed({"searchFilter": ""}, 1, 2), "rldk-of-mine": "x"}
    for name, value in theirs.items():
        client.set_experiment_tag(experiment, name, value)
    View(client, experiment, "GRPOTrainer").show(GRPO)
    tags = client.get_experiment(experiment).tags
    assert {name: tags[name] for name in theirs} == theirs
    assert VIEW_TAG in tags


def test_a_view_of_that_name_that_is_not_ours_is_not_touched(client: Any, experiment: str) -> None:
    theirs = packed({"searchFilter": ""}, 1, 2)
    client.set_experiment_tag(experiment, VIEW_TAG, theirs)
    View(client, experiment, "GRPOTrainer").show(GRPO)
    assert client.get_experiment(experiment).tags[VIEW_TAG] == theirs


@pytest.mark.parametrize("mark", ["", "no json", "[]", '{"series": 3}'])
def test_a_mark_that_cannot_be_read_leaves_the_view_alone(client: Any, experiment: str, mark: str) -> None:
    View(client, experiment, "GRPOTrainer").show(GRPO)
    before = client.get_experiment(experiment).tags[VIEW_TAG]
    client.set_experiment_tag(experiment, MARK, mark)
    View(client, experiment, "PPOTrainer").show(PPO)
    assert client.get_experiment(experiment).tags[VIEW_TAG] == before


def test_too_many_series_are_said_and_not_sent(client: Any, experiment: str, caplog: pytest.LogCaptureFixture) -> None:
    many = [f"rldk/reward/function/{'x' * 150}{n}/mean" for n in range(500)]
    with caplog.at_level(logging.INFO, "rldk_tracking"):
        View(client, experiment, "GRPOTrainer").show(many)
    assert VIEW_TAG not in client.get_experiment(experiment).tags
    assert "too large" in caplog.text


def test_addresses() -> None:
    assert view_path("7").startswith("#/experiments/7/runs?")
    assert "viewStateShareKey=rldk-rl-health" in view_path("7")
    assert "compareRunsMode=CHART" in view_path("7")
    assert run_path("7", "abc") == "#/experiments/7/runs/abc?workflowType=machine_learning"
    assert run_path("7", "abc", "artifacts") == "#/experiments/7/runs/abc/artifacts?workflowType=machine_learning"
    assert models_path("7") == "#/experiments/7/models?workflowType=machine_learning"
