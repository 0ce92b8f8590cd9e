"""The specification as a layout of TensorBoard's Custom Scalars page: the same sections, several series in one plot.

A layout is a summary like any other, without a step; the last one written is the one that is shown.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from rldk_tracking.charts.spec import sections


def layout(keys: Collection[str], trainer: str | None = None) -> dict[str, dict[str, list[Any]]]:
    """For `SummaryWriter.add_custom_scalars`: section to title to kind and patterns, each of exactly one series.

    Args:
        keys: the series that exist, under the names of the catalogue.
        trainer: see `rldk_tracking.charts.spec.sections`.
    """
    return {
        section.name: {
            chart.title: ["Multiline", [f"^{re.escape(key)}$" for key in chart.series(keys)]]
            for chart in section.charts
        }
        for section in sections(keys, trainer)
    }
