"""The saved view: what stands in it, whose it is, how it is kept in a tag, and which servers show it."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

import pytest

from rldk_tracking.charts import spec
from rldk_tracking.charts.mlflow import (
    KIND_TAG,
    MARK,
    TAG_LENGTH,
    TRAINING,
    VIEW_TAG,
    View,
    is_server,
    mark_as_training,
    models_path,
    packed,
    run_path,
    server_version,
    shows_views,
    view_path,
    view_state,
)
from rldk_tracking.charts.spec import SECTIONS, VIEW_NAME, sections
from rldk_tracking.metrics.keys import CATALOGUE
from tests.charts.saved_views import unpacked

GRPO = ["rldk/reward/mean", "rldk/kl/ref_k3", "rldk/kl/limit", "rldk/reward/group_tied_fraction", "rldk/unknown/series"]


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
    again.show([*GRPO, "rldk/unknown/time"])
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


def test_a_limit_is_drawn_beside_its_series_and_an_axis_has_the_bounds_of_its_unit() -> None:
    series = ["rldk/kl/ref_k3", "rldk/kl/limit", "rldk/health/score", "rldk/grad/norm"]
    cards = {card["metricKey"]: card for card in view_state(sections(series), series)["compareRunCharts"]}
    assert cards["rldk/kl/ref_k3"]["selectedMetricKeys"] == ["rldk/kl/ref_k3", "rldk/kl/limit"]
    assert cards["rldk/health/score"]["range"] == {"yMin": -0.02, "yMax": 1.02}
    assert (cards["rldk/grad/norm"]["scaleType"], cards["rldk/grad/norm"]["range"]) == ("log", {})


def test_the_series_that_no_chart_draws_are_kept_from_making_charts() -> None:
    chosen = sections(GRPO)
    cards = view_state(chosen, GRPO)["compareRunCharts"]
    gone = {card["metricKey"] for card in cards if card["deleted"]}
    assert "rldk/kl/ref_k2" in gone
    assert "rldk/kl/ref_k3" not in gone
    assert gone <= set(CATALOGUE)
    assert len({card["uuid"] for card in cards}) == len(cards)


def test_the_whole_specification_fits_into_the_tag() -> None:
    every = {name for name in CATALOGUE if "<" not in name} | {f"rldk/reward/function/f{n}/mean" for n in range(50)}
    tag = packed(view_state(sections(every), every), 1, 2)
    assert len(unpacked(tag)["compareRunSections"]) == len(SECTIONS)
    assert len(tag) < TAG_LENGTH / 2


@pytest.mark.parametrize(
    ("version", "shown"),
    [("3.15.0", True), ("3.17.2", True), ("4.0.0", True), ("3.14.9", False), ("2.22.0", False), (None, True)],
)
def test_which_mlflow_shows_views(version: str | None, shown: bool) -> None:
    assert shows_views(version) is shown


def test_the_version_of_a_server(old_server: str, old_pages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert server_version(old_server) == "3.8.1"
    monkeypatch.setattr(old_pages, "version", "<html>a proxy's page</html>")
    assert server_version(old_server) is None
    monkeypatch.setattr(old_pages, "version", "3.17.2")
    monkeypatch.setattr(old_pages, "status", 401)
    assert server_version(old_server) is None
    assert server_version("http://127.0.0.1:9") is None


def test_what_a_server_is() -> None:
    assert is_server("https://mlflow.example.org")
    assert not is_server("sqlite:///mlflow.db")
    assert not is_server("databricks")


def test_the_list_of_runs_says_what_is_open() -> None:
    assert view_state(sections(GRPO, "GRPOTrainer"), GRPO)["selectedColumns"][:2] == [
        "tags.`rldk.status`",
        "tags.`rldk.alerts.open`",
    ]


def test_an_experiment_without_a_kind_is_one_of_trainings(client: Any, experiment: str) -> None:
    mark_as_training(client, experiment)
    assert client.get_experiment(experiment).tags[KIND_TAG] == TRAINING


@pytest.mark.parametrize("kind", ["genai_development", ""])
def test_a_kind_that_is_there_stays(client: Any, experiment: str, kind: str) -> None:
    client.set_experiment_tag(experiment, KIND_TAG, kind)
    mark_as_training(client, experiment)
    assert client.get_experiment(experiment).tags[KIND_TAG] == kind


@pytest.mark.slow
def test_an_experiment_with_traces_gets_no_kind(client: Any, experiment: str) -> None:
    span = client.start_trace("a chat", experiment_id=experiment)
    client.end_trace(span.trace_id)
    for _ in range(100):
        if client.search_traces(locations=[experiment], max_results=1):
            break
        time.sleep(0.05)
    mark_as_training(client, experiment)
    assert KIND_TAG not in client.get_experiment(experiment).tags
