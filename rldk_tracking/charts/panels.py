"""What W&B cannot draw from single series by itself: heat-maps, reward against KL, alerts, the report.

W&B keeps each of them as an artifact version, so they are made anew only now and then, and at the end. Pictures are
drawn by a process of their own, and logged beside the row that comes when they are there.

| key | what |
|---|---|
| rldk/charts/overview | the alerts on a time line, and the series that they are about |
| rldk/charts/reward_distribution, layer_gradients | the heat-map as a picture |
| ..._table | the same as a table, which the saved view draws |
| ..._histogram | where it is a distribution, the latest steps' part of it, which W&B lines up over the steps |
| rldk/charts/reward_against_kl | a point for each row |
| rldk/charts/alerts | a table, a row for each alert and each end of one, in order |
| rldk/charts/report | the whole run on one page, at the end |
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any

from rldk_tracking.charts.binning import Cadence
from rldk_tracking.charts.drawing import OVERVIEW, REPORT, Drawing
from rldk_tracking.charts.heatmap import Heatmap
from rldk_tracking.charts.incidents import incidents_of, overview_charts
from rldk_tracking.charts.report import Report
from rldk_tracking.charts.series import Thinned
from rldk_tracking.charts.spec import HEATMAP_TITLES
from rldk_tracking.health.alert import Alert
from rldk_tracking.rollout import RunInfo

logger = logging.getLogger(__name__)

PREFIX = "rldk/charts"
END_S = 15.0
"""So long the end of a training waits for the last pictures."""
CELL_COLUMNS = ["global_step", "row", "value"]
"""Of a heat-map's table."""
ALERT_COLUMNS = [
    *("step", "state", "severity", "rule", "message", "advice", "value", "threshold", "first_step", "series"),
]
HEATMAP_CHART = "rldk-heatmap-1"
"""Of the definition by which W&B draws heat-maps; another number where it changes, since W&B cannot change one."""
STEP, ROW, VALUE = CELL_COLUMNS
HEATMAP_DEFINITION: dict[str, Any] = {
    "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
    "data": {"name": "wandb"},
    "title": "${string:title}",
    "mark": {"type": "rect", "tooltip": True},
    "encoding": {
        "x": {"field": "${field:step}", "type": "ordinal", "title": "step", "axis": {"labelOverlap": True}},
        "y": {"field": "${field:row}", "type": "nominal", "title": None, "sort": None},
        # Gradients go over magnitudes, and an empty bin is 0, which has no logarithm.
        "color": {
            "field": "${field:value}",
            "type": "quantitative",
            "title": None,
            "scale": {"scheme": "blues", "type": "symlog", "constant": 0.001},
        },
    },
}


class RunPictures:
    """Pictures of one run.

    Args:
        html: makes of a picture what the backend logs.
        info: what is known of the training.
        histogram: takes `np_histogram=(counts, edges)`; None where the backend has no such thing.
        most: points of a series that are kept.
        resumed_after: the last step that the run holds of an earlier process.
    """

    def __init__(
        self,
        html: Callable[[str], Any],
        info: RunInfo,
        histogram: Callable[..., Any] | None = None,
        most: int = 200,
        resumed_after: int | None = None,
    ) -> None:
        self._html, self._histogram = html, histogram
        self._info = info
        self._resumed_after = resumed_after
        self._past = Thinned(most)
        self._alerts: list[Alert] = []
        self._heatmaps: dict[str, Heatmap] = {}
        self._cadence = Cadence()
        self._has_news = self._cannot_draw = False
        self._undrawn: set[str] = set()
        self._drawing: Drawing | None = None

    def restore(self, past: Iterable[tuple[str, tuple[Any, ...]]]) -> None:
        """Take what an earlier process has shown."""
        for method, args in past:
            if method == "log":
                self._past.add(args[0], args[1])
            elif method == "alert":
                self._alerts.append(args[0])
            elif method == "log_heatmap":
                self._heatmaps[args[0]] = args[1]

    def row(self, metrics: Mapping[str, float], step: int) -> dict[str, Any]:
        """Take a row. Returns the panels to log beside it, none where their turn has not come."""
        self._past.add(metrics, step)
        self._cadence.count()
        found = self._drawn(0.0) if self._drawing is not None and self._drawing.is_done else {}
        if self._cadence.due or (self._has_news and self._cadence.possible):
            self._cadence.done()
            self._has_news = False
            self._undrawn.add(OVERVIEW)
            found |= self.panels()
        if self._undrawn and self._drawing is None:
            self._draw(self._undrawn, "")
        return found

    def alert(self, alert: Alert) -> None:
        """Take an alert, or the end of one."""
        self._alerts.append(alert)
        self._has_news = True

    def heatmap(self, key: str, heatmap: Heatmap) -> dict[str, Any]:
        """The panels of a heat-map; its picture comes with a later row."""
        self._heatmaps[key] = heatmap
        self._undrawn.add(key)
        if not heatmap.edges or self._histogram is None:
            return {}
        latest = [row[-1] or 0.0 for row in reversed(heatmap.values)]
        return {f"{key}_histogram": self._histogram(np_histogram=(latest, list(heatmap.edges)))}

    def at_end(self, status: str, title: str) -> dict[str, Any]:
        """All panels and the report, none where there was no row."""
        if self._past.step is None:
            return {}
        if self._drawing is not None:
            self._drawing.pictures(0.0)
        self._draw({OVERVIEW, REPORT, *self._heatmaps}, status, title)
        return self.panels() | self._drawn(END_S)

    def _draw(self, names: Collection[str], status: str, title: str = "") -> None:
        if self._cannot_draw:
            return
        series = self._past.series
        if REPORT not in names:  # an overview draws a few of them, and all would cost the training time
            shown = {chart.key for chart in overview_charts(incidents_of(self._alerts))}
            series = {key: points for key, points in series.items() if key in shown}
        report = Report(
            title=title,
            status=status,
            trainer=self._info.trainer,
            series=series,
            alerts=self._alerts,
            settings=self._info.config,
            heatmaps=self._heatmaps,
            resumed_after=self._resumed_after,
        )
        try:
            self._drawing = Drawing(report, [*names])
        except OSError as fault:
            self._cannot_draw = True
            logger.info("Pictures are left out, because no process can be started that draws them: %s", fault)
        self._undrawn.clear()

    def _drawn(self, timeout_s: float) -> dict[str, Any]:
        """The pictures of the process that draws, as panels."""
        drawing, self._drawing = self._drawing, None
        pictures = {} if drawing is None else drawing.pictures(timeout_s)
        return {
            name if name in self._heatmaps else f"{PREFIX}/{name}": self._html(picture)
            for name, picture in pictures.items()
        }

    def panels(self) -> dict[str, Any]:
        """The panels without a picture, for which there is data."""
        return {}


class RunPanels(RunPictures):
    """The same with what W&B draws itself: tables of heat-maps and of alerts, and the reward against KL.

    Of the table of alerts each version holds only what is new, and W&B shows them as one.
    """

    def __init__(self, module: Any, info: RunInfo, most: int = 200, resumed_after: int | None = None) -> None:
        super().__init__(partial(module.Html, inject=False), info, module.Histogram, most, resumed_after)
        self._module = module
        self._table = module.Table(columns=ALERT_COLUMNS, log_mode="INCREMENTAL", allow_mixed_types=True)
        self._new: list[Alert] = []

    def alert(self, alert: Alert) -> None:
        super().alert(alert)
        self._new.append(alert)

    def heatmap(self, key: str, heatmap: Heatmap) -> dict[str, Any]:
        data = [list(cell) for cell in heatmap.cells()]
        return {f"{key}_table": self._module.Table(columns=CELL_COLUMNS, data=data), **super().heatmap(key, heatmap)}

    def panels(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        series = self._past.series
        kl = next((key for key in ("rldk/kl/ref_k3", "rldk/kl/ref_k1") if key in series), None)
        if kl is not None and "rldk/reward/mean" in series:
            reward = dict(series["rldk/reward/mean"])
            points = [[value, reward[step], step] for step, value in series[kl] if step in reward]
            table = self._module.Table(columns=["kl", "reward", "global_step"], data=points)
            chart = self._module.plot.scatter(table, "kl", "reward", title="Reward against KL")
            found[f"{PREFIX}/reward_against_kl"] = chart
        for a in self._new:
            row = (a.step, a.state, a.severity, a.rule, a.message, a.advice, a.value, a.threshold, a.first_step, a.key)
            self._table.add_data(*row)
        if self._new:
            self._new.clear()
            found[f"{PREFIX}/alerts"] = self._table
        return found


def define_heatmap(wandb: Any, entity: str, faults: tuple[type[Exception], ...]) -> str | None:
    """Have the definition of the heat-map in a team; its id, for panels, or None where W&B does not take it.

    W&B draws a custom chart from a table of the run and a Vega-Lite definition that is stored with the team; no preset
    of its own is a heat-map. The definition is made by the same explicit command as the saved view.

    Args:
        wandb: the module.
        entity: the team.
        faults: what W&B's API raises.
    """
    try:
        made = wandb.Api().create_custom_chart(
            entity=entity,
            name=HEATMAP_CHART,
            display_name="RL health: heat-map (rldk)",
            spec_type="vega2",
            access="private",
            spec=HEATMAP_DEFINITION,
        )
    except faults as fault:
        there = any(word in str(fault).lower() for word in ("already exists", "duplicate", "unique"))
        return heatmap_chart_id(entity) if there else None
    return str(made)


def heatmap_chart_id(entity: str) -> str:
    """Under which the definition is known once it is there."""
    return f"{entity}/{HEATMAP_CHART}"


def table_of(key: str) -> str:
    """The run's table from which a heat-map is drawn."""
    return f"{key}_table"


def heatmap_panel(panels: Any, chart: str | None, key: str) -> Any:
    """The panel of a heat-map in the saved view.

    Args:
        panels: the module `wandb_workspaces.reports.v2`.
        chart: the definition's id; without it the panel shows the run's picture of the heat-map.
        key: of the heat-map.
    """
    if chart is None:
        return panels.MediaBrowser(title=HEATMAP_TITLES[key], media_keys=[key])
    return panels.CustomChart(
        query={"summaryTable": {"tableKey": table_of(key)}},
        chart_name=chart,
        chart_fields={"step": STEP, "row": ROW, "value": VALUE},
        chart_strings={"title": HEATMAP_TITLES[key]},
    )
