"""W&B's own rules on our series: a message to the team's Slack when the health score is low or an alert opens.

They run on W&B's server, so they speak even where the training cannot. Each is made once, by an explicit command, and
known by its name from then on. They need a plan that has automations, the right to make them, and a Slack integration
that an administrator has set up for the team; none of these can be had from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rldk_tracking.charts.wandb import RefusedError, faults

LOW_SCORE = 0.5
WINDOW = 5


@dataclass(frozen=True)
class Automation:
    """One automation and whether this command made it."""

    name: str
    made: bool


def save_automations(entity: str, project: str, channel: str | None = None) -> list[Automation]:
    """Have both automations in a project.

    Args:
        entity: the team.
        project: its project.
        channel: name of the Slack channel, where the team has several; without it the first.

    Raises:
        ImportError: wandb is not installed.
        RefusedError: there is no such integration, or W&B does not take the automation.
    """
    try:
        import wandb
    except ImportError as error:
        raise ImportError('W&B automations need wandb: pip install "rldk-tracking[wandb]"') from error
    refusals: tuple[type[Exception], ...] = (*faults(wandb), ValueError)
    try:
        api = wandb.Api()
        slack = _integration(api, entity, channel)
        scope = api.project(project, entity=entity)
        known = {automation.name for automation in api.automations(entity=entity)}
        outcome = []
        for name, event, text in _wanted(scope, project):
            if name not in known:
                _make(api, name, event, text, slack)
            outcome.append(Automation(name, name not in known))
    except refusals as fault:
        raise RefusedError(f"W&B refuses: {fault}") from fault
    return outcome


def _integration(api: Any, entity: str, channel: str | None) -> Any:
    found = list(api.slack_integrations(entity=entity))
    for integration in found:
        if channel is None or channel.lstrip("#") == str(integration.channel_name).lstrip("#"):
            return integration
    if found:
        names = ", ".join(str(integration.channel_name) for integration in found)
        raise RefusedError(f"{entity} has no Slack integration for {channel}; there is {names}.")
    raise RefusedError(f"{entity} has no Slack integration. An administrator adds one in W&B's team settings.")


def _wanted(scope: Any, project: str) -> list[tuple[str, Any, str]]:
    """Name, event and text of each."""
    from wandb.automations import OnRunMetric, RunEvent

    score = RunEvent.metric("rldk/health/score").avg(WINDOW) < LOW_SCORE
    firing = RunEvent.metric("rldk/alerts/firing") > 0
    return [
        (
            f"rldk-health-score-{project}",
            OnRunMetric(scope=scope, filter=score),
            f"The mean of the last {WINDOW} health scores is below {LOW_SCORE}.",
        ),
        (
            f"rldk-alerts-firing-{project}",
            OnRunMetric(scope=scope, filter=firing),
            "At least one alert is open; the run's page says which, since when, and what to try.",
        ),
    ]


def _make(api: Any, name: str, event: Any, text: str, slack: Any) -> None:
    from wandb.automations import SendNotification

    action = SendNotification.from_integration(slack, title=name, text=text, level="WARN")
    api.create_automation(event >> action, name=name, description="Made by rldk-tracking.", fetch_existing=True)
