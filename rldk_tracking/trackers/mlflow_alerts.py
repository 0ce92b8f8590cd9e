"""The alerts of one MLflow run, as the table that its page shows: a row for each transition."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rldk_tracking.health.alert import Alert
from rldk_tracking.trackers.records import alert_of

FILE = "rldk/alerts.json"
COLUMNS = ("step", "rule", "severity", "state", "first_step", "value", "threshold", "message", "advice", "key")


class AlertTable:
    """Transitions in the order in which they came, each once.

    Attributes:
        alerts: the transitions.
    """

    def __init__(self) -> None:
        self.alerts: list[Alert] = []
        self._known: set[tuple[int, str, str, str]] = set()

    def add(self, alert: Alert) -> None:
        """Take a transition, unless it is there."""
        sign = (alert.step, alert.rule, alert.severity, alert.state)
        if sign not in self._known:
            self._known.add(sign)
            self.alerts.append(alert)

    def put_before(self, earlier: Iterable[Alert]) -> None:
        """Take transitions that are older than those here."""
        later, self.alerts, self._known = self.alerts, [], set()
        for alert in [*earlier, *later]:
            self.add(alert)

    @property
    def open(self) -> dict[str, str]:
        """Rules that fire, and how severe each is."""
        found: dict[str, str] = {}
        for alert in self.alerts:
            if alert.state == "firing":
                found[alert.rule] = alert.severity
            else:
                found.pop(alert.rule, None)
        return found

    @property
    def rows(self) -> list[list[Any]]:
        """One row a transition, under `COLUMNS`."""
        return [[getattr(alert, column) for column in COLUMNS] for alert in self.alerts]


def stored(client: Any, run_id: str) -> list[Alert]:
    """The table that an earlier process left in a run; rows of another make are left out.

    Raises:
        MlflowException, OSError: the store does not answer.
    """
    with TemporaryDirectory() as folder:
        # By the client of this store: `mlflow.artifacts` would ask the one that is set for the process.
        text = Path(client.download_artifacts(run_id, FILE, folder)).read_text(encoding="utf-8")
    try:
        table = json.loads(text)
        rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    except (ValueError, KeyError, TypeError):
        return []
    found = []
    for row in rows:
        try:
            found.append(alert_of(row))
        except (KeyError, TypeError, ValueError):
            continue
    return found
