"""The heat-map as a custom chart of W&B: a Vega-Lite definition that a team has once, and panels that use it.

W&B draws a custom chart from a table of the run and a definition that is stored with the team; no preset of its own is
a heat-map. The definition is made by the same explicit command as the saved view.
"""

from __future__ import annotations

from typing import Any

from rldk_tracking.charts.panels import CELL_COLUMNS
from rldk_tracking.charts.spec import HEATMAP_TITLES

NAME = "rldk-heatmap-1"
"""Of the definition; another number where it changes, because W&B has no way to change one."""
STEP, ROW, VALUE = CELL_COLUMNS
DEFINITION: dict[str, Any] = {
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


def define(wandb: Any, entity: str, faults: tuple[type[Exception], ...]) -> str | None:
    """Have the definition in a team; its id, for panels, or None where W&B does not take it.

    Args:
        wandb: the module.
        entity: the team.
        faults: what W&B's API raises.
    """
    try:
        made = wandb.Api().create_custom_chart(
            entity=entity,
            name=NAME,
            display_name="RL health: heat-map (rldk)",
            spec_type="vega2",
            access="private",
            spec=DEFINITION,
        )
    except faults as fault:
        there = any(word in str(fault).lower() for word in ("already exists", "duplicate", "unique"))
        return chart_id(entity) if there else None
    return str(made)


def chart_id(entity: str) -> str:
    """Under which the definition is known once it is there."""
    return f"{entity}/{NAME}"


def table_of(key: str) -> str:
    """The run's table from which a heat-map is drawn."""
    return f"{key}_table"


def panel(panels: Any, chart: str | None, key: str) -> Any:
    """A panel of the saved view.

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
