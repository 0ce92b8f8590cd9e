"""The state of MLflow's chart page that shows the specification, and how the page keeps it in a tag.

The schema is that of the page of MLflow 3.15 and newer, and is not documented.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rldk_tracking.charts.spec import VIEW_NAME, Chart, Section
from rldk_tracking.keys import CATALOGUE

COLUMNS = ("tags.`rldk.status`", "metrics.`rldk/health/score`", "metrics.`rldk/alerts/firing`")


def view_state(chosen: Sequence[Section], series: Collection[str]) -> dict[str, Any]:
    """The state of the chart page: the given sections, and nothing of ours that they leave out."""
    drawn = [_section(number, section) for number, section in enumerate(chosen)]
    cards = [
        _card(f"rldk-chart-{place}-{number}", f"rldk-section-{place}", chart, chart.series(series))
        for place, section in enumerate(chosen)
        for number, chart in enumerate(section.charts)
    ]
    # The page makes a card for every series that has none, unless there is a deleted one.
    bare = sorted(set(CATALOGUE) - {series for card in cards for series in card["selectedMetricKeys"]})
    gone = [
        {"uuid": f"rldk-left-out-{number}", "type": "LINE", "metricKey": key, "deleted": True, "isGenerated": True}
        for number, key in enumerate(bare)
        if "<" not in key
    ]
    return {
        "searchFilter": "",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": list(COLUMNS),
        "columnOrder": [],
        "columnWidths": {},
        "runsHiddenMode": "SHOW_ALL",
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": True,
        "useGroupedValuesInCharts": False,
        "hideEmptyCharts": True,
        "autoRefreshEnabled": True,
        "groupBy": None,
        "groupsExpanded": {},
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
        "compareRunSections": drawn,
        "compareRunCharts": cards + gone,
    }


def _section(number: int, section: Section) -> dict[str, Any]:
    return {
        "uuid": f"rldk-section-{number}",
        "name": section.name,
        "display": True,
        "isReordered": True,
        "deleted": False,
        "isGenerated": False,
    }


def _card(uuid: str, section: str, chart: Chart, series: Sequence[str]) -> dict[str, Any]:
    return {
        "uuid": uuid,
        "type": "LINE",
        "metricSectionId": section,
        "deleted": False,
        "isGenerated": False,
        "runsCountToCompare": 20,
        "displayName": chart.title,
        "metricKey": series[0],
        "selectedMetricKeys": list(series),
        "lineSmoothness": 0,
        "useGlobalLineSmoothing": True,
        "xAxisKey": "step",
        "useGlobalXaxisKey": True,
        "selectedXAxisMetricKey": "",
        "xAxisScaleType": "linear",
        "scaleType": "log" if chart.logarithmic else "linear",
        # A little more than the bounds, so that a line at a bound is seen.
        "range": {} if chart.bounds is None else {"yMin": chart.bounds[0] - 0.02, "yMax": chart.bounds[1] + 0.02},
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "ignoreOutliers": False,
    }


def packed(state: Mapping[str, Any], created: int, updated: int) -> str:
    """The value of the view's tag; the times in milliseconds since the epoch."""
    blob = base64.b64encode(zlib.compress(json.dumps(state).encode(), 9)).decode()
    view = {"name": VIEW_NAME, "createdAt": created, "updatedAt": updated, "state": f"deflate;{blob}"}
    return json.dumps(view)
