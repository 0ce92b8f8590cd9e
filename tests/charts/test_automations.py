"""Automations of a W&B project, against a server on loopback that remembers them."""

from __future__ import annotations

import json

import pytest

from rldk_tracking.charts.automations import save_automations
from rldk_tracking.charts.wandb import RefusedError
from tests.charts.wandb_backend import WandbBackend

pytest.importorskip("wandb.automations", reason="this wandb has no automations")


def test_both_are_made_with_their_conditions(wandb_backend: WandbBackend) -> None:
    made = save_automations("tester", "project")
    assert [(automation.name, automation.made) for automation in made] == [
        ("rldk-health-score-project", True),
        ("rldk-alerts-firing-project", True),
    ]
    score, firing = wandb_backend.automations
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


def test_however_often_it_runs_each_is_made_once(wandb_backend: WandbBackend) -> None:
    outcomes = [[automation.made for automation in save_automations("tester", "project")] for _ in range(3)]
    assert outcomes == [[True, True], [False, False], [False, False]]
    assert wandb_backend.count("CreateAutomation") == 2


def test_one_that_is_missing_is_made_again(wandb_backend: WandbBackend) -> None:
    save_automations("tester", "project")
    del wandb_backend.automations[0]
    assert [automation.made for automation in save_automations("tester", "project")] == [True, False]


def test_the_channel_can_be_chosen(wandb_backend: WandbBackend) -> None:
    wandb_backend.channels = ["#general", "#alerts"]
    save_automations("tester", "project", channel="alerts")
    action = wandb_backend.automations[0]["triggeredActionConfig"]["notificationActionInput"]
    assert action["integrationID"] == "SW50Z1"
    with pytest.raises(RefusedError, match=r"#nowhere; there is #general, #alerts"):
        save_automations("tester", "project", channel="#nowhere")


def test_without_an_integration_it_says_who_adds_one(wandb_backend: WandbBackend) -> None:
    wandb_backend.channels = []
    with pytest.raises(RefusedError, match="An administrator adds one"):
        save_automations("tester", "project")
    assert wandb_backend.count("CreateAutomation") == 0


def test_no_right_to_make_them_is_said(wandb_backend: WandbBackend) -> None:
    wandb_backend.refuses.add("CreateAutomation")
    with pytest.raises(RefusedError, match="permission denied"):
        save_automations("tester", "project")
