"""What is set up in a W&B project: the specification as a saved view, and, by a command alone, two automations.

W&B draws every series by itself; the view adds the order, the titles, limits beside what they bound, and reward against
KL. A project's first run saves it (`rldk_tracking.charts.first_view`). The view's address has a fixed name, by which an
earlier one is found: a later run leaves it alone. The command `rldk-tracking charts wandb` does not send again what is
there already, and replaces what has fewer charts than there is data for.

The automations are W&B's own rules on our series: a message to the team's Slack when the health score is low or an
alert opens. They run on W&B's server, so they speak even where the training cannot. Each is made once, and known by its
name from then on. They need a plan that has automations, the right to make them, and a Slack integration that an
administrator has set up for the team; none of these can be had from here.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from rldk_tracking.charts.panels import PREFIX, define_heatmap, heatmap_chart_id, heatmap_panel, table_of
from rldk_tracking.charts.spec import VIEW_NAME, Chart, Section, charted, sections, signature
from rldk_tracking.messages.packages import imported, install_line
from rldk_tracking.metrics.keys import CATALOGUE

SLUG = "rldkhealth1"
"""The view's name in its address, `?nw=rldkhealth1`."""
STEP = "train/global_step"
OVERVIEW, ALERTS = f"{PREFIX}/overview", f"{PREFIX}/alerts"
LATEST_RUNS = 20
"""How many of the latest runs are asked for their series."""
ABOUT = (
    "Saved once; `rldk-tracking charts wandb ENTITY/PROJECT` brings it up to date when there are new series. "
    "Read from the top: health and open alerts first, then the section that an alert's series belongs to. "
    "A limit that was given is drawn as a series of its own, `rldk/<group>/limit`."
)
Outcome = Literal["made", "updated", "unchanged"]
LOW_SCORE = 0.5
"""Mean health score below which W&B sends a message."""
WINDOW_ROWS = 5


class RefusedError(Exception):
    """W&B did not take what was asked of it, or has no such project; the message says what and why."""


@dataclass(frozen=True)
class SavedView:
    """A view and how it came about."""

    url: str
    outcome: Outcome
    charts: int


def save_view(entity: str, project: str, also: Iterable[str] = (), first_only: bool = False) -> SavedView:
    """Have the view in a project, with the charts for which its latest runs have data.

    Args:
        entity, project: where.
        also: further series, of a run that has not told W&B of them yet.
        first_only: leave a view that is there as it is.

    Raises:
        ImportError: wandb or wandb-workspaces is not installed.
        RefusedError: there is no such project, or W&B does not take the view.
    """
    wandb, ws, _ = packages()
    url = f"{project_url(wandb, entity, project)}?nw={SLUG}"
    try:
        series = series_of(wandb, entity, project, also)
        chosen = sections(series)
        count = sum(len(section.charts) for section in chosen)
        known = _known(ws, entity, project)
        if known is not None and first_only:
            return SavedView(url, "unchanged", count)
        chart = None
        if any(table_of(key) in series for section in chosen for key in section.heatmaps):
            there = known is not None and heatmap_chart_id(entity) in known["spec"]
            chart = heatmap_chart_id(entity) if there else define_heatmap(wandb, entity, faults(wandb))
        wish = _signature(chosen, series, chart)
        if known is not None and wish in known["spec"]:
            return SavedView(url, "unchanged", count)
        view = workspace(entity, project, series, chart)
        view._internal_name = f"nw-{SLUG}-v"
        view._internal_id = "" if known is None else known["id"]
        # `Workspace.save` does the same and then prints an address without the server's path.
        answer = ws.internal.upsert_view2(view._to_model())
    except faults(wandb) as fault:
        raise RefusedError(f"W&B refuses: {fault}") from fault
    stored = answer["upsertView"]["view"]["name"]
    address = stored.removeprefix("nw-").removesuffix("-v")
    return SavedView(url.replace(SLUG, address), "made" if known is None else "updated", count)


def workspace(entity: str, project: str, series: Collection[str], chart: str | None = None) -> Any:
    """The view, not saved: a `wandb_workspaces.workspaces.Workspace`.

    Args:
        entity, project: where.
        series: what the runs have; tables and pictures too.
        chart: id of the definition by which heat-maps are drawn, see `rldk_tracking.charts.panels`.
    """
    _, ws, wr = packages()
    chosen = sections(series)
    about = wr.MarkdownPanel(markdown=f"{ABOUT}\n\n`{_signature(chosen, series, chart)}`")
    drawn = []
    for number, section in enumerate(chosen):
        panels = [_panel(wr, chart, chart.series(series)) for chart in section.charts]
        if section.name == "Rollouts" and {"rldk/reward/mean", "rldk/kl/ref_k3"} <= set(series):
            panels.append(
                wr.LinePlot(title="Reward against KL", x="rldk/kl/ref_k3", y=["rldk/reward/mean"], title_x="KL")
            )
        panels += [heatmap_panel(wr, chart, key) for key in section.heatmaps if table_of(key) in series]
        if number == 0:
            panels = [*_first_panels(wr, series), *panels, about]
        drawn.append(ws.Section(name=section.name, panels=panels, is_open=True))
    settings = ws.WorkspaceSettings(x_axis=STEP, group_by_prefix="last")
    return ws.Workspace(
        entity=entity, project=project, name=VIEW_NAME, sections=drawn, settings=settings, auto_generate_panels=True
    )


def _first_panels(wr: Any, series: Collection[str]) -> list[Any]:
    """What is to be seen first: the picture of what broke and when, and the table of alerts."""
    found = [wr.MediaBrowser(title="What broke, and when", media_keys=[OVERVIEW])] if OVERVIEW in series else []
    return [*found, wr.WeavePanelSummaryTable(table_name=ALERTS)] if ALERTS in series else found


def _panel(wr: Any, chart: Chart, names: list[str]) -> Any:
    return wr.LinePlot(
        title=chart.title,
        x=STEP,
        y=names,
        log_y=True if chart.logarithmic else None,
        range_y=(None, None) if chart.bounds is None else chart.bounds,
    )


def series_of(wandb: Any, entity: str, project: str, also: Iterable[str] = ()) -> set[str]:
    """The series that the project's latest runs have and the specification draws; all of it where there is none."""
    try:
        runs = wandb.Api().runs(f"{entity}/{project}", order="-created_at", per_page=LATEST_RUNS, lazy=False)
        latest = (run for run, _ in zip(runs, range(LATEST_RUNS), strict=False))
        found = {*also, *(str(key) for run in latest for key in _plain(run.summary_metrics))}
    except ValueError as fault:
        raise RefusedError(f"W&B has no project {entity}/{project}, or it is not yours to read: {fault}") from fault
    ours = charted(key for key in found if key.startswith("rldk/"))
    ours |= {name for name in found if name.startswith(f"{PREFIX}/")} if ours else set()
    return ours or charted(name for name in CATALOGUE if "<" not in name)


def _plain(summary: Any) -> list[str]:
    """Keys of a run's summary, which keeps `summary="max"` and the like in a level below."""
    return [key for key in summary if not key.startswith("_")]


def _known(ws: Any, entity: str, project: str) -> dict[str, str] | None:
    """Id and specification of the view that an earlier command made."""
    try:
        found = ws.internal.get_view_dict(entity, project, SLUG)
    except ValueError as fault:
        if "Workspace" in str(fault):
            return None
        raise RefusedError(str(fault)) from fault
    return {"id": str(found["id"]), "spec": str(found["spec"])}


def project_url(wandb: Any, entity: str, project: str) -> str:
    """Address of the project's workspace page."""
    return str(wandb.Api().project(project, entity=entity).url)


def packages() -> tuple[Any, Any, Any]:
    """wandb, wandb_workspaces.workspaces, and the panels.

    Raises:
        ImportError: one of them is not installed; the message names the extra.
    """
    try:
        import wandb
        import wandb_workspaces.reports.v2 as panels
        import wandb_workspaces.workspaces as workspaces
    except ImportError as error:
        raise ImportError(f"W&B views need wandb-workspaces: {install_line('wandb')}") from error
    return wandb, workspaces, panels


def faults(wandb: Any) -> tuple[type[Exception], ...]:
    """What W&B's API raises where the server refuses or is not there; some calls let its transport's own error out."""
    known = [wandb.Error, OSError]
    try:
        from wandb.sdk.lib.service.service_connection import WandbApiFailedError

        known.append(WandbApiFailedError)
    except ImportError:
        pass  # of another age of wandb, which has other names inside
    return tuple(known)


def _signature(chosen: list[Section], series: Collection[str], chart: str | None = None) -> str:
    drawn = [name for section in chosen for plot in section.charts for name in plot.series(series)]
    drawn += [chart or "", *sorted(name for name in series if name.startswith(f"{PREFIX}/"))]
    return f"rldk {signature([*chosen, Section(json.dumps(drawn), ())])}"


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
    wandb = imported("wandb", "An automation of W&B")
    refusals: tuple[type[Exception], ...] = (*faults(wandb), ValueError)
    try:
        api = wandb.Api()
        slack = _integration(api, entity, channel)
        scope = api.project(project, entity=entity)
        known = {automation.name for automation in api.automations(entity=entity)}
        outcome = []
        for name, event, text in _automations_wanted(scope, project):
            if name not in known:
                _make_automation(api, name, event, text, slack)
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


def _automations_wanted(scope: Any, project: str) -> list[tuple[str, Any, str]]:
    """Name, event and text of each."""
    from wandb.automations import OnRunMetric, RunEvent

    score = RunEvent.metric("rldk/health/score").avg(WINDOW_ROWS) < LOW_SCORE
    firing = RunEvent.metric("rldk/alerts/firing") > 0
    return [
        (
            f"rldk-health-score-{project}",
            OnRunMetric(scope=scope, filter=score),
            f"The mean of the last {WINDOW_ROWS} health scores is below {LOW_SCORE}.",
        ),
        (
            f"rldk-alerts-firing-{project}",
            OnRunMetric(scope=scope, filter=firing),
            "At least one alert is open; the run's page says which, since when, and what to try.",
        ),
    ]


def _make_automation(api: Any, name: str, event: Any, text: str, slack: Any) -> None:
    from wandb.automations import SendNotification

    action = SendNotification.from_integration(slack, title=name, text=text, level="WARN")
    api.create_automation(event >> action, name=name, description="Made by rldk-tracking.", fetch_existing=True)
