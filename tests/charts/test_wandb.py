"""The saved view and the automations of a W&B project, against a server on loopback that remembers them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from rldk_tracking.charts.panels import CELL_COLUMNS
from rldk_tracking.charts.spec import SECTIONS, VIEW_NAME
from rldk_tracking.charts.wandb import RefusedError, packages, save_automations, save_view, workspace
from rldk_tracking.messages.packages import install_line
from tests.charts.wandb_backend import WandbBackend

pytest.importorskip("wandb_workspaces", reason="wandb-workspaces is not installed")

PPO = {"rldk/reward/mean": 0.4, "rldk/kl/ref_k3": 0.1, "rldk/kl/limit": 0.2, "rldk/value/loss": 2.0, "train/loss": 1.0}


def spec(backend: WandbBackend) -> dict[str, Any]:
    (view,) = backend.views.values()
    return dict(json.loads(view["spec"])["section"])


def drawn(backend: WandbBackend) -> dict[str, list[Any]]:
    """Section to what its line plots draw."""
    return {
        section["name"]: [panel["config"]["metrics"] for panel in section["panels"] if "metrics" in panel["config"]]
        for section in spec(backend)["panelBankConfig"]["sections"]
    }


def test_the_view_has_what_the_projects_runs_have(wandb_backend: WandbBackend) -> None:
    wandb_backend.runs = [PPO, {"rldk/length/mean": 5.0, "_step": 3}]
    view = save_view("tester", "project")
    assert (view.outcome, view.charts) == ("made", 4)
    assert view.url == f"{wandb_backend.url}/tester/project/workspace?nw=rldkhealth1"
    assert drawn(wandb_backend) == {
        "Rollouts": [["rldk/reward/mean"], ["rldk/reward/mean"]],
        "KL and policy": [["rldk/kl/ref_k3", "rldk/kl/limit"]],
        "Value and advantage": [["rldk/value/loss"]],
        "Length and diversity": [["rldk/length/mean"]],
    }
    saved = wandb_backend.views["nw-rldkhealth1-v"]
    assert saved["displayName"] == VIEW_NAME
    assert (saved["entityName"], saved["projectName"]) == ("tester", "project")
    assert spec(wandb_backend)["settings"]["xAxis"] == "train/global_step"


def test_reward_is_drawn_against_kl(wandb_backend: WandbBackend) -> None:
    wandb_backend.runs = [PPO]
    save_view("tester", "project")
    panels = spec(wandb_backend)["panelBankConfig"]["sections"][0]["panels"]
    config = next(panel["config"] for panel in panels if panel["config"].get("chartTitle") == "Reward against KL")
    assert config["xAxis"] == "rldk/kl/ref_k3"


def test_however_often_it_runs_it_is_sent_once(wandb_backend: WandbBackend) -> None:
    wandb_backend.runs = [PPO]
    outcomes = [save_view("tester", "project").outcome for _ in range(3)]
    assert outcomes == ["made", "unchanged", "unchanged"]
    assert wandb_backend.count("UpsertView2") == 1
    assert len(wandb_backend.views) == 1


def test_new_series_bring_the_same_view_up_to_date(wandb_backend: WandbBackend) -> None:
    wandb_backend.runs = [PPO]
    first = save_view("tester", "project")
    wandb_backend.runs.append({"rldk/checkpoint/score": 1.0})
    second = save_view("tester", "project")
    assert second.outcome == "updated"
    assert second.url == first.url
    assert len(wandb_backend.views) == 1
    assert "Checkpoints" in drawn(wandb_backend)


HEATMAPS = {"rldk/health/score": 1.0, "rldk/reward/mean": 0.4, "rldk/grad/norm": 1.0} | {
    f"rldk/charts/{name}": {"_type": "table-file"}
    for name in ("overview", "alerts", "reward_distribution_table", "layer_gradients_table")
}


def panels_of(backend: WandbBackend, name: str) -> list[dict[str, Any]]:
    (section,) = (found for found in spec(backend)["panelBankConfig"]["sections"] if found["name"] == name)
    return list(section["panels"])


def config_with(backend: WandbBackend, name: str, setting: str) -> dict[str, Any]:
    """Of the one panel of a section that has such a setting."""
    (config,) = (panel["config"] for panel in panels_of(backend, name) if panel["config"].get(setting))
    return dict(config)


def test_heat_maps_are_drawn_by_a_definition_that_is_made_once(wandb_backend: WandbBackend) -> None:
    wandb_backend.runs = [HEATMAPS]
    assert [save_view("tester", "project").outcome for _ in range(3)] == ["made", "unchanged", "unchanged"]
    assert wandb_backend.count("CreateCustomChart") == 1
    assert wandb_backend.count("UpsertView2") == 1
    ((chart, made),) = wandb_backend.charts.items()
    fields = set(re.findall(r"\$\{field:(\w+)\}", made["spec"]))
    for section, table in (("Rollouts", "reward_distribution"), ("Gradients and updates", "layer_gradients")):
        config = config_with(wandb_backend, section, "panelDefId")
        assert config["panelDefId"] == chart
        assert set(config["fieldSettings"]) == fields
        assert set(config["fieldSettings"].values()) == set(CELL_COLUMNS)
        assert f"rldk/charts/{table}_table" in json.dumps(config["userQuery"])


def test_a_team_that_has_the_definition_keeps_it(wandb_backend: WandbBackend) -> None:
    wandb_backend.runs = [HEATMAPS]
    save_view("tester", "project")
    wandb_backend.views.clear()
    assert save_view("tester", "project").outcome == "made"
    assert len(wandb_backend.charts) == 1
    assert config_with(wandb_backend, "Rollouts", "panelDefId")["panelDefId"] in wandb_backend.charts


def test_without_the_right_to_define_charts_the_pictures_are_shown(wandb_backend: WandbBackend) -> None:
    wandb_backend.runs = [HEATMAPS]
    wandb_backend.refuses.add("CreateCustomChart")
    assert [save_view("tester", "project").outcome for _ in range(2)] == ["made", "unchanged"]
    config = config_with(wandb_backend, "Rollouts", "mediaKeys")
    assert config["mediaKeys"] == ["rldk/charts/reward_distribution"]


def test_what_broke_comes_first(wandb_backend: WandbBackend) -> None:
    wandb_backend.runs = [HEATMAPS]
    save_view("tester", "project")
    first, second, *_ = panels_of(wandb_backend, "Health and alerts")
    assert first["config"]["mediaKeys"] == ["rldk/charts/overview"]
    assert "rldk/charts/alerts" in json.dumps(second)


def test_a_server_that_names_the_view_itself(wandb_backend: WandbBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    given = wandb_backend._UpsertView2

    def renamed(variables: dict[str, Any]) -> dict[str, Any]:
        return given(variables | {"name": "nw-abc123-v"})

    monkeypatch.setattr(wandb_backend, "_UpsertView2", renamed)
    assert save_view("tester", "project").url.endswith("?nw=abc123")


def test_a_project_without_runs_gets_the_whole_specification(wandb_backend: WandbBackend) -> None:
    save_view("tester", "project")
    assert list(drawn(wandb_backend)) == [section.name for section in SECTIONS]


def test_no_project_and_no_right_are_said(wandb_backend: WandbBackend) -> None:
    with pytest.raises(RefusedError, match="no project tester/other"):
        save_view("tester", "other")
    wandb_backend.refuses.add("UpsertView2")
    with pytest.raises(RefusedError, match="permission denied"):
        save_view("tester", "project")
    assert wandb_backend.views == {}


def test_names_of_strangers_are_taken_as_names() -> None:
    hostile = 'rldk/reward/function/"],{}<script>/mean'
    model = workspace("a", "b", {hostile})._to_model()
    text = model.spec.model_dump_json(by_alias=True, exclude_none=True)
    (section,) = json.loads(text)["section"]["panelBankConfig"]["sections"]
    assert section["panels"][0]["config"]["metrics"] == [hostile]


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "wandb_workspaces.workspaces", None)
    with pytest.raises(ImportError, match=re.escape(install_line("wandb"))):
        packages()


@pytest.fixture
def automating(wandb_backend: WandbBackend) -> WandbBackend:
    """The server, where this wandb has automations."""
    pytest.importorskip("wandb.automations", reason="this wandb has no automations")
    return wandb_backend


def test_both_are_made_with_their_conditions(automating: WandbBackend) -> None:
    made = save_automations("tester", "project")
    assert [(automation.name, automation.made) for automation in made] == [
        ("rldk-health-score-project", True),
        ("rldk-alerts-firing-project", True),
    ]
    score, firing = automating.automations
    assert (score["triggeringEventType"], score["scopeType"]) == ("RUN_METRIC", "PROJECT")
    conditions = [json.loads(made["eventFilter"])["run_metric_filter"]["threshold_filter"] for made in (score, firing)]
    assert conditions[0] == {
        "name": "rldk/health/score",
        "agg_op": "AVERAGE",
        "window_size": 5,
        "cmp_op": "$lt",
        "threshold": 0.5,
    }
    assert (conditions[1]["name"], conditions[1]["cmp_op"], conditions[1]["threshold"]) == (
        "rldk/alerts/firing",
        "$gt",
        0,
    )
    assert score["triggeredActionConfig"]["notificationActionInput"]["severity"] == "WARN"


def test_however_often_it_runs_each_is_made_once(automating: WandbBackend) -> None:
    outcomes = [[automation.made for automation in save_automations("tester", "project")] for _ in range(3)]
    assert outcomes == [[True, True], [False, False], [False, False]]
    assert automating.count("CreateAutomation") == 2


def test_one_that_is_missing_is_made_again(automating: WandbBackend) -> None:
    save_automations("tester", "project")
    del automating.automations[0]
    assert [automation.made for automation in save_automations("tester", "project")] == [True, False]


def test_the_channel_can_be_chosen(automating: WandbBackend) -> None:
    automating.channels = ["#general", "#alerts"]
    save_automations("tester", "project", channel="alerts")
    action = automating.automations[0]["triggeredActionConfig"]["notificationActionInput"]
    assert action["integrationID"] == "SW50Z1"
    with pytest.raises(RefusedError, match=r"#nowhere; there is #general, #alerts"):
        save_automations("tester", "project", channel="#nowhere")


def test_without_an_integration_it_says_who_adds_one(automating: WandbBackend) -> None:
    automating.channels = []
    with pytest.raises(RefusedError, match="An administrator adds one"):
        save_automations("tester", "project")
    assert automating.count("CreateAutomation") == 0


def test_no_right_to_make_them_is_said(automating: WandbBackend) -> None:
    automating.refuses.add("CreateAutomation")
    with pytest.raises(RefusedError, match="permission denied"):
        save_automations("tester", "project")
