"""A run's colour in MLflow, which its list and its charts share: the hue tells its health."""

from __future__ import annotations

import hashlib

from rldk_tracking.health.alert import Severity

COLOUR = "mlflow.runColor"
"""The tag."""
COLOURS: dict[Severity | None, tuple[str, ...]] = {
    None: ("#1b7837", "#2ca02c", "#5aae61", "#00897b", "#7cb342"),
    "info": ("#1b7837", "#2ca02c", "#5aae61", "#00897b", "#7cb342"),
    "warning": ("#ff7f0e", "#e6ab02", "#d95f02", "#fb8c00", "#b8860b"),
    "critical": ("#d62728", "#a50f15", "#e7298a", "#ef5350", "#8b0000"),
}
"""Health to shades: the charts take a run's colour, and two healthy runs must be told apart."""


def colour(severity: Severity | None, run_id: str) -> str:
    """The run's colour: its health gives the hue, its id the shade."""
    shades = COLOURS[severity]
    return shades[hashlib.sha256(run_id.encode()).digest()[0] % len(shades)]
