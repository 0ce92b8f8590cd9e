"""The specification as a saved view of an MLflow experiment: named sections of charts, one address.

MLflow keeps a saved view as one tag of the experiment, `mlflow.sharedViewState.<id>`, whose value is an envelope (name,
times) around the compressed state of its chart page. Pages of MLflow 3.15 and newer show such views; the schema is that
of the page, and is not documented.

The view is written when a run has data for charts that it does not have yet, so once for most experiments. Beside it
the tag `rldk.view` says what was written. A view that somebody has changed or deleted since is that person's, and is
left alone.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import time
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import requests

from rldk_tracking.charts.spec import VIEW_NAME, Chart, Section, charted, sections, signature
from rldk_tracking.metrics.keys import CATALOGUE

logger = logging.getLogger(__name__)
VIEW_ID = "rldk-rl-health"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW_ID}"
MARK = "rldk.view"
KIND = "workflowType=machine_learning"
"""Of page: without it the navigation beside the page is that for chats and agents."""
KIND_TAG = "mlflow.experimentKind"
TRAINING = "custom_model_development"
"""The kind of an experiment that holds trainings. MLflow 3.15 to 3.17 go by the address instead, see `KIND`."""
TAG_LENGTH = 20_000
"""Of an experiment's tag; a longer one is refused."""
RUN_COLUMNS = (
    "tags.`rldk.status`",
    "tags.`rldk.alerts.open`",
    "metrics.`rldk/health/score`",
    "metrics.`rldk/alerts/firing`",
)
"""Of the list of runs beside the charts."""
VIEWS_SINCE = (3, 15)
"""The first MLflow whose pages show saved views."""


def view_path(experiment_id: str) -> str:
    """Address of the view's page below the server's, which works as a link inside MLflow as well."""
    query = f"{KIND}&viewStateShareKey={VIEW_ID}&compareRunsMode=CHART"
    return f"#/experiments/{experiment_id}/runs?{query}"


def run_path(experiment_id: str, run_id: str, part: str = "") -> str:
    """Address of a run's page with its note, or of one of its parts, below the server's."""
    place = f"#/experiments/{experiment_id}/runs/{run_id}" + (f"/{part}" if part else "")
    return f"{place}?{KIND}"


def models_path(experiment_id: str) -> str:
    """Address of the experiment's models, which are the checkpoints of its runs, below the server's."""
    return f"#/experiments/{experiment_id}/models?{KIND}"


class View:
    """The saved view of one experiment, as one run sees it.

    Args:
        client: an `MlflowClient`.
        experiment_id: the run's experiment.
        trainer: class name of the run's trainer.
    """

    def __init__(self, client: Any, experiment_id: str, trainer: str) -> None:
        self._client = client
        self._experiment_id = experiment_id
        self._trainer = trainer
        self._seen: set[str] = set()
        self._drawn: set[str] = set()
        self.there = False
        """Whether the experiment has the view."""

    def show(self, keys: Iterable[str]) -> None:
        """Have these series in the view. Costs nothing where they have been seen before.

        Raises:
            MlflowException: the store does not take the tag.
        """
        before = len(self._seen)
        self._seen.update(keys)
        if len(self._seen) == before:
            return
        chosen = sections(self._seen, self._trainer)
        wanted = {key for section in chosen for chart in section.charts for key in chart.series(self._seen)}
        if not wanted <= self._drawn:
            self._write(wanted)
            self._drawn |= wanted

    def _write(self, wanted: set[str]) -> None:
        tags = self._client.get_experiment(self._experiment_id).tags
        present, mark = tags.get(VIEW_TAG), _mark(tags.get(MARK))
        if mark is not None and present is None:
            self.there = False
            logger.info("The view %r was deleted from the experiment, and stays away.", VIEW_NAME)
            return
        self.there = present is not None
        if present is not None and (mark is None or mark["written"] != _digest(present)):
            logger.info("The view %r was changed by somebody, and stays as it is.", VIEW_NAME)
            return
        series = wanted | charted(mark["series"] if mark is not None else ())
        chosen = sections(series)
        wish = signature(chosen) + _digest(" ".join([*RUN_COLUMNS, *sorted(series)]))
        if mark is not None and mark["signature"] == wish:
            return
        now = int(time.time() * 1000)
        created = now if present is None else int(json.loads(present).get("createdAt", now))
        tag = packed(view_state(chosen, series), created, now)
        note = json.dumps({"signature": wish, "written": _digest(tag), "series": sorted(series)})
        if max(len(tag), len(note)) > TAG_LENGTH:
            logger.info("The view %r would be too large for MLflow with %d series.", VIEW_NAME, len(series))
            return
        self._client.set_experiment_tag(self._experiment_id, VIEW_TAG, tag)
        self._client.set_experiment_tag(self._experiment_id, MARK, note)
        self.there = True


def mark_as_training(client: Any, experiment_id: str) -> None:
    """Say that an experiment holds trainings, where nobody has said what it holds and no traces are in it.

    Raises:
        MlflowException: the store does not take the tag.
    """
    if KIND_TAG in client.get_experiment(experiment_id).tags:
        return
    if not client.search_traces(locations=[experiment_id], max_results=1, include_spans=False):
        client.set_experiment_tag(experiment_id, KIND_TAG, TRAINING)


def _mark(tag: str | None) -> dict[str, Any] | None:
    """What an earlier run wrote beside the view; None where that cannot be read."""
    if tag is None:
        return None
    try:
        mark = json.loads(tag)
    except ValueError:
        return None
    if not isinstance(mark, dict) or not isinstance(mark.get("series"), list):
        return None
    return {"signature": "", "written": "", **mark}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


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
        "selectedColumns": list(RUN_COLUMNS),
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


def is_server(place: str) -> bool:
    """Whether a tracking address is that of an MLflow server."""
    return place.startswith(("http://", "https://"))


def server_version(place: str) -> str | None:
    """The version of the server, whose pages they are; None where it does not say."""
    try:
        answer = requests.get(f"{place.rstrip('/')}/version", timeout=(3.05, 5), allow_redirects=False)
    except requests.exceptions.RequestException:
        return None
    version = answer.text.strip()
    return version if answer.ok and version[:1].isdigit() and len(version) < 40 else None


def shows_views(version: str | None) -> bool:
    """Whether an MLflow of this version shows saved views; one whose version is not known may."""
    if version is None:
        return True
    numbers = tuple(int(part) if part.isdigit() else 0 for part in version.split(".")[:2])
    return numbers >= VIEWS_SINCE
